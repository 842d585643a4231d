"""STAMP's feature files, read: `feats` [n, d], `coords` in um, attributes on the file.

Places become level-0 px once the slide's spacing is known, which the file does not say: `Bag.with_mpp`. Files of its
first version have no unit; where their tiles lie 224 apart, a unit is 256/224 um. The extractor is read from the name
of the folder, ``<extractor>-<hash>``.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from histill.core.bags import BagFacts, BagFile, Unscaled, bag_error
from histill.formats.hdf5 import Hdf5

FIRST_VERSION_STEP, FIRST_VERSION_UM = 224, 256.0


def recognises(file: Hdf5) -> bool:
    """Whether a file names its features as only STAMP does."""
    return "feats" in file


def open_file(file: Hdf5) -> BagFile:
    """A bag of a file that is open; the bag closes it.

    Raises:
        HistillError: as `Hdf5.array` and `BagFacts`; input (4) if it holds no tiles, but a whole slide or patient.
    """
    if file.has("encoder"):
        what = "it holds the features of a whole slide or patient, not of tiles"
        raise bag_error(str(file.path), what, "Give the folder of the tiles' features, or read it as slide vectors")
    features = file.array("feats", "f", (2,))
    facts = BagFacts(
        slide=file.path.stem,
        encoder=_encoder_in(file.path.parent.name),
        tile_px=round(file.number("tile_size_px") or 0) or None,
        unscaled=_unscaled(file, features.shape[0]) if "coords" in file else None,
        path=file.path,
    )
    return BagFile("stamp", facts, features, release=file.close)


def _unscaled(file: Hdf5, count: int) -> Unscaled | None:
    coords = file.array("coords", "iuf", (2,))
    if coords.shape != (count, 2):
        raise bag_error(
            str(file.path), f"{count} features, but {coords.shape[0]} coordinates of {coords.shape[1]} axes"
        )
    with np.errstate(invalid="ignore"):
        points = coords.values().astype(np.float64)  # [n, 2]
    # Before version 2.1 it was called tile_size, and there was a unit: um, the only one there ever was.
    side = file.number("tile_size_um") or (file.number("tile_size") if file.has("unit") else None)
    if side is None:
        if round(_step(points)) != FIRST_VERSION_STEP:
            return None
        points, side = points * (FIRST_VERSION_UM / FIRST_VERSION_STEP), FIRST_VERSION_UM
    return Unscaled(points, "um", "corner", side)


def _encoder_in(folder: str) -> str:
    """The extractor that the name of a folder says, as STAMP calls it; empty where it says none."""
    found = re.fullmatch("(.+)-[0-9a-f]{8}", folder)
    return found[1] if found else ""


def _step(points: NDArray[np.float64]) -> float:
    """The least distance of two columns or rows of tiles; 0 where there is one tile."""
    gaps = np.concatenate([np.diff(np.unique(points[:, axis])) for axis in (0, 1)])
    return float(gaps.min()) if len(gaps) else 0.0
