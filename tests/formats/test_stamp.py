"""STAMP's files of three versions as published: places in um, which become px with the slide's spacing."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import failing, features, places, stamp

from histill.data.bags import open_bag, read_bag

X = features()
UM = places(side=256).astype(np.float64)
OLDER = dict.fromkeys(["stamp_version", "unit", "tile_size_um", "tile_size_px", "feat_type", "code_hash"])


def test_places_in_um_become_px(tmp_path: Path) -> None:
    path = stamp(tmp_path / "uni2-0123abcd" / "deep" / "a.h5", X, UM)
    with open_bag(path) as file:
        assert (file.layout, file.shape, file.dtype) == ("stamp", (300, 6), np.float16)
        bag = file.read()
    np.testing.assert_array_equal(bag.features, X.astype(np.float16))
    assert (bag.coords, bag.tile_side, bag.tile_px, bag.mpp) == (None, None, 224, None)
    known = bag.with_mpp(0.25)
    np.testing.assert_array_equal(known.coords, UM.astype(np.int64) * 4)
    assert (known.tile_side, known.mpp) == (1024, 0.25)
    # The step needs no spacing.
    np.testing.assert_array_equal(bag.steps(), known.steps())


def test_the_extractor_is_its_folders_name(tmp_path: Path) -> None:
    assert read_bag(stamp(tmp_path / "uni2-0123abcd" / "a.h5", X, UM)).encoder == "uni2"
    assert read_bag(stamp(tmp_path / "features" / "a.h5", X, UM)).encoder == ""


def test_version_2_0_calls_the_side_tile_size(tmp_path: Path) -> None:
    bag = read_bag(stamp(tmp_path / "a.h5", X, UM, **(OLDER | {"unit": "um", "tile_size": 256.0})))
    assert bag.unscaled is not None
    assert (bag.unscaled.unit, bag.unscaled.tile_um) == ("um", 256.0)
    np.testing.assert_array_equal(bag.unscaled.points, UM)


def test_version_1_counts_256_um_as_224(tmp_path: Path) -> None:
    bag = read_bag(stamp(tmp_path / "a.h5", X, UM / 256 * 224, **OLDER))
    assert bag.unscaled is not None
    np.testing.assert_allclose(bag.unscaled.points, UM, rtol=1e-6)
    assert bag.unscaled.tile_um == 256


def test_places_of_an_unknown_unit_are_left(tmp_path: Path) -> None:
    bag = read_bag(stamp(tmp_path / "a.h5", X, UM * 3, **OLDER))
    assert (bag.coords, bag.unscaled, len(bag)) == (None, None, 300)


def test_a_lone_tile_without_a_unit(tmp_path: Path) -> None:
    assert read_bag(stamp(tmp_path / "a.h5", X[:1], UM[:1], **OLDER)).unscaled is None


def test_features_without_places(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["feats"] = X
    assert read_bag(tmp_path / "a.h5").steps() is None


def test_features_of_whole_slides_are_no_bag(tmp_path: Path) -> None:
    path = stamp(tmp_path / "a.h5", X, UM, encoder="titan", feat_type="slide")
    assert "whole slide or patient" in failing(open_bag, path)


def test_unequal_lengths(tmp_path: Path) -> None:
    assert "300 features, but 299 coordinates of 2 axes" in failing(open_bag, stamp(tmp_path / "a.h5", X, UM[:299]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_places_that_are_not_finite(value: float, tmp_path: Path) -> None:
    um = UM.copy()
    um[7, 1] = value
    assert "no places on a slide" in failing(open_bag, stamp(tmp_path / "a.h5", X, um))


def test_places_in_three_dimensions(tmp_path: Path) -> None:
    failing(open_bag, stamp(tmp_path / "a.h5", X, np.zeros((300, 3))))
    failing(open_bag, stamp(tmp_path / "b.h5", X, np.zeros((300, 3)), **OLDER))
