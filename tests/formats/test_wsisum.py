"""WSISum's files: one feature row more than places, summaries without places, and the published ones."""

import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import clam, failing, features, places, wsisum

from histill.data.bags import open_bag, read_bag
from histill.formats.wsisum import TARGET

X, PLACES = features(301), places(300)
CASE = "TCGA-3C-AALI-01"


def test_the_last_row_of_a_training_file_is_the_slides(tmp_path: Path) -> None:
    with open_bag(wsisum(tmp_path / "a.h5", X, PLACES)) as file:
        assert (file.layout, file.shape) == ("wsisum", (300, 6))
        bag = file.read()
    np.testing.assert_array_equal(bag.features, X[:300])
    np.testing.assert_array_equal(bag.coords, PLACES)
    np.testing.assert_array_equal(bag.slide_vectors[TARGET], X[300])


def test_a_summary_has_no_places(tmp_path: Path) -> None:
    bag = read_bag(wsisum(tmp_path / "a.h5", X, None))
    np.testing.assert_array_equal(bag.features, X)
    assert bag.coords is None
    assert not bag.slide_vectors


def test_only_one_row_more_is_taken_so(tmp_path: Path) -> None:
    assert "301 features, but 299 coordinates" in failing(open_bag, clam(tmp_path / "a.h5", X, PLACES[:299]))


def test_the_published_slide(data_root: Path) -> None:
    folder = data_root / "mil_features"
    with open_bag(folder / f"{CASE}_conch15_500patches.h5") as file:
        assert (file.layout, file.shape, file.dtype) == ("wsisum", (500, 768), np.float32)
        bag = file.read()
    with h5py.File(folder / f"{CASE}_conch15_500patches.h5") as published:
        np.testing.assert_array_equal(bag.features, published["features"][:500])
        np.testing.assert_array_equal(bag.slide_vectors[TARGET], published["features"][500])
        np.testing.assert_array_equal(bag.coords, published["coords"][:])
    steps = bag.steps()
    assert steps is not None
    # Its tiles lie on one grid of 1,024 px, of which 500 are left: the commonest gap finds it.
    np.testing.assert_array_equal(steps, np.rint(steps))
    np.testing.assert_array_equal(steps.max(0), [93, 66])
    summary = read_bag(folder / f"{CASE}_wsisum_summary.h5")
    assert summary.features.shape == (63, 768)
    assert summary.coords is None
    # All of it are tiles of that slide.
    distances = np.abs(summary.features[:, None] - bag.features[None]).max(2).min(1)
    assert distances.max() < 1e-5
