"""How well a few tiles stand in for all of a slide, by the tiles' features alone: no model, no label.

Rules that hold for all of it:

- A kept tile stands for itself: its cosine is 1, its distance 0, its error 0. Every measure is taken over all tiles of
  the bag, so that summaries of one bag are measured against the same, and with all tiles kept each is at its best.
- Cosines are those of the features as they are, not centred. A tile whose features are all 0 has cosine 0 to another.
- Tiles are gone through in pieces: memory beside the features is that of a piece and of the kept tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError

Features = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]

CHUNK = 1 << 22
"""Numbers in a piece: the tiles gone through at a time, times the larger of the features and the kept tiles."""

RIDGE = 0.1
"""The ridge as a share of a tile's mean squared distance to the bag's mean; see `reconstruction`."""


@dataclass(frozen=True)
class Fidelity:
    """The measures of one summary.

    Attributes:
        nearest_cosine: mean over all tiles of the cosine to the nearest kept tile; at most 1.
        mean_cosine: cosine of the kept tiles' mean and the bag's mean; at most 1.
        reconstruction: share of the bag's variance that is kept or follows from what is kept; at most 1.
        radius: coverage: the largest distance, 1 - cosine, of a tile to its nearest kept tile; at least 0.
    """

    nearest_cosine: float
    mean_cosine: float
    reconstruction: float
    radius: float


def fidelity(features: Features, kept: Indices) -> Fidelity:
    """All measures of a summary.

    Args:
        features: [n, d], finite.
        kept: indices of the kept tiles, at least one, each once.

    Raises:
        HistillError: input (4) if `kept` is empty, or names a tile twice or one that is not there.
    """
    cosines = nearest_cosines(features, kept)
    return Fidelity(
        float(cosines.mean()), mean_cosine(features, kept), reconstruction(features, kept), float(1 - cosines.min())
    )


def nearest_cosines(features: Features, kept: Indices) -> NDArray[np.float64]:
    """Each tile's cosine to the kept tile that is nearest by cosine, [n].

    Computed in float32: good to six digits. Cost: n d multiplications for each kept tile.

    Args:
        features: [n, d].
        kept: see `fidelity`.
    """
    kept = _checked(features, kept)
    summary = _unit(features[kept])
    cosines = np.empty(len(features))
    for part in _pieces(features, kept):
        cosines[part] = (_unit(features[part]) @ summary.T).max(1)
    cosines[kept] = 1
    return np.clip(cosines, -1, 1)


def mean_cosine(features: Features, kept: Indices) -> float:
    """The cosine of the kept tiles' mean and the mean of all tiles; 0 where one of them is 0 and they are not the same.

    Args:
        features: [n, d].
        kept: see `fidelity`.
    """
    kept = _checked(features, kept)
    one, other = features[kept].mean(0, dtype=np.float64), features.mean(0, dtype=np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if not lengths:
        return float(np.array_equal(one, other))
    return float(np.clip(one @ other / lengths, -1, 1))


def reconstruction(features: Features, kept: Indices, ridge: float = RIDGE) -> float:
    """How well the other tiles follow from the kept ones, by ridge regression.

    Each other tile x is the kept tiles' mean m and a combination of the kept tiles K [b, d] about it, whose weights are
    small:

        x' = m + w (K - m),    w = argmin |x - m - w (K - m)|^2 + lambda |w|^2
        score = 1 - sum over the other tiles |x - x'|^2 / sum over all tiles |x - mean of all|^2

    lambda = `ridge` times the mean over all tiles of |x - mean of all|^2. That follows from the bag, not from the
    summary, so that summaries of one bag are held to one rule, and does not change with the features' scale. Without it
    any d tiles in general position would reconstruct all others exactly, and the measure would see no difference
    between large summaries; with much more of it copying a tile costs more than it explains, and the kept tiles that
    lie farthest out win for their length alone. Below 0 where the kept tiles' mean is a worse guess than the bag's.

    Computed in float64. In the kept tiles' principal directions v with singular values s the regression shrinks,
    x' - m = sum over v of s^2 / (s^2 + lambda) <x - m, v> v. Cost: n d multiplications for each of min(b, d) of them.

    Args:
        features: [n, d].
        kept: see `fidelity`.
        ridge: see above; more than 0.
    """
    kept = _checked(features, kept)
    mean = features.mean(0, dtype=np.float64)
    total = sum(float(((features[part] - mean) ** 2).sum()) for part in _pieces(features, kept))
    others = np.ones(len(features), bool)
    others[kept] = False
    if not others.any() or not total:
        return 1.0
    summary = features[kept].astype(np.float64)
    middle = summary.mean(0)
    _, singular, directions = np.linalg.svd(summary - middle, full_matrices=False)
    left = 1 - singular**2 / (singular**2 + ridge * total / len(features))
    error = 0.0
    for part in _pieces(features, kept):
        away = features[part][others[part]] - middle
        along = away @ directions.T  # [rows, directions]
        # What is outside of all directions, and what is left of each.
        outside = away - along @ directions
        error += float((outside**2).sum() + ((along * left) ** 2).sum())
    return 1 - error / total


@dataclass(frozen=True)
class Recall:
    """How a summary treats one rare kind of tile.

    Attributes:
        found: whether a tile of the kind is kept.
        in_bag: the kind's share of the bag.
        in_summary: its share of the summary; as large as in the bag is what chance gives.
    """

    found: bool
    in_bag: float
    in_summary: float


def rare_recall(rare: NDArray[np.bool_], kept: Indices) -> Recall:
    """Whether a rare kind of tile is kept, and by what share.

    Args:
        rare: bool [n], the tiles of the kind; at least one.
        kept: see `fidelity`.

    Raises:
        HistillError: input (4) as `fidelity`, or if no tile is of the kind.
    """
    kept = _checked(rare, kept)
    if not rare.any():
        raise HistillError(
            "no tile is of the rare kind", code=Exit.INPUT, subject="bag", mend="Leave this slide out of the measure"
        )
    return Recall(bool(rare[kept].any()), float(rare.mean()), float(rare[kept].mean()))


def _checked(tiles: NDArray[Any], kept: Indices) -> Indices:
    kept = np.asarray(kept, np.int64)
    if not len(kept) or kept.min() < 0 or kept.max() >= len(tiles) or len(np.unique(kept)) < len(kept):
        raise HistillError(
            f"a summary of {len(kept)} tiles that is empty, or names a tile twice or one that is not there",
            code=Exit.INPUT,
            subject="summary",
            mend=f"Name some of the bag's {len(tiles)} tiles, each once",
        )
    return kept


def _pieces(features: Features, kept: Indices) -> Iterator[slice]:
    n, d = features.shape
    step = max(1, CHUNK // max(d, len(kept)))
    return (slice(start, start + step) for start in range(0, n, step))


def _unit(features: Features) -> NDArray[np.float32]:
    """Each tile at length 1; those of length 0 stay 0."""
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)
