"""CLAM's feature files, read: ``h5_files/<slide>.h5`` (`features`, `coords`, no attributes) and ``patches/<slide>.h5``.

Its ``pt_files/<slide>.pt`` hold the same features without places; what is in a .pt is read in `data.torch_files`.
"""

from __future__ import annotations

from pathlib import Path

from histill.core.bags import BagFacts, BagFile, bag_error
from histill.formats.hdf5 import Hdf5, read_corners


def recognises(file: Hdf5) -> bool:
    """Whether a file has features and places, and says no more."""
    return "features" in file and "coords" in file


def open_file(file: Hdf5) -> BagFile:
    """A bag of a file that is open; the bag closes it. The side of a tile stands in `read_patches`.

    Raises:
        HistillError: as `Hdf5.array` and `BagFacts`; input (4) if there are not as many features as places.
    """
    features, coords = file.array("features", "f", (2,)), file.array("coords", "iuf", (2,))
    if features.shape[0] != coords.shape[0]:
        raise bag_error(str(file.path), f"{features.shape[0]} features, but {coords.shape[0]} coordinates")
    facts = BagFacts(slide=file.path.stem, coords=read_corners(coords), path=file.path)
    return BagFile("clam", facts, features, release=file.close)


def read_patches(path: Path) -> BagFacts:
    """The places of ``patches/<slide>.h5``, and the side of a tile: in its level's px, times how much that is reduced.

    Raises:
        HistillError: as `Hdf5` and `Hdf5.array`.
    """
    with Hdf5(path) as file:
        coords = file.array("coords", "iuf", (2,))
        reduced, pixels = coords.pair("downsample"), coords.whole("patch_size")
        level = coords.pair("level_dim")
        return BagFacts(
            slide=path.stem,
            coords=read_corners(coords),
            tile_side=round(pixels * reduced[0]) if pixels and reduced else None,
            tile_px=pixels,
            slide_size=(round(level[0] * reduced[0]), round(level[1] * reduced[1])) if level and reduced else None,
            path=path,
        )
