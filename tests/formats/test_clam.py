"""CLAM's HDF5 files as published: features and places without attributes, and patches with theirs."""

import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import clam, failing, features, places

from histill.data.bags import open_bag
from histill.formats.clam import read_patches

X, PLACES = features(), places(side=1024)


def test_features_and_places(tmp_path: Path) -> None:
    with open_bag(clam(tmp_path / "h5_files" / "slide.1.h5", X, PLACES)) as file:
        assert (file.layout, file.shape) == ("clam", (300, 6))
        bag = file.read()
    np.testing.assert_array_equal(bag.features, X)
    np.testing.assert_array_equal(bag.coords, PLACES)
    assert bag.coords.dtype == np.int64  # type: ignore[union-attr]
    # The file does not say the side of a tile, but tiles lie side by side.
    assert (bag.slide, bag.tile_side, bag.mpp, bag.encoder) == ("slide.1", None, None, "")
    np.testing.assert_array_equal(bag.steps()[:2], [[0, 0], [1, 0]])  # type: ignore[index]


def test_unequal_lengths(tmp_path: Path) -> None:
    assert "300 features, but 298 coordinates" in failing(open_bag, clam(tmp_path / "a.h5", X, PLACES[:298]))
    assert "300 features, but 301 coordinates" in failing(open_bag, clam(tmp_path / "b.h5", X, places(301)))


def test_patches_say_the_side_in_their_levels_px(tmp_path: Path) -> None:
    path = tmp_path / "patches" / "a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["coords"] = PLACES
        told: dict[str, object] = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)}
        told |= {"downsampled_level_dim": (5000, 6000), "level_dim": (5000, 6000), "name": "a", "save_path": "/x"}
        file["coords"].attrs.update(told)
    patches = read_patches(path)
    np.testing.assert_array_equal(patches.coords, PLACES)
    assert (patches.slide, patches.tile_side, patches.tile_px) == ("a", 1024, 256)
    assert patches.slide_size == (20000, 24000)
    assert "coordinates without features" in failing(open_bag, path)


def test_patches_that_say_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = PLACES
    patches = read_patches(tmp_path / "a.h5")
    assert (patches.tile_side, patches.tile_px, patches.slide_size) == (None, None, None)
