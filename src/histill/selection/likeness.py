"""Tiles that stand in for all: each tile has a kept one near it, and the kept ones together are like the slide.

Tiles are seen in several ways at once, such as their features and what a network makes of them in their surroundings.
With squared distances d, each way's over their mean, and with u the ways side by side, each at length 1:

    L(S) = - mean_j min_(i in S) d_ij + weight * cos(mean_(i in S) u_i, mean_j u_j)

Written for the low and the high level of WSISum. A greedy choice begins (of the first part it reaches 63 % of the best,
Nemhauser et al. 1978), and single tiles are exchanged, the best exchange of all each time, until none makes L greater.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.selection.clusters import check_budget

Indices = NDArray[np.int64]
WEIGHT = 0.3
"""Of the second part; chosen on the training slides of `benchmarks/rare_slides.py`, by the measures of `fidelity`."""
LEAST_GAIN = 1e-7
"""Of an exchange: below it float32 no longer tells which is better."""


class Likeness:
    """The tiles of one bag, and how well some of them stand in for all.

    Memory and time grow as n^2: 16 MiB a way for 2,048 tiles.

    Args:
        views: the ways in which tiles are seen, float [n, d] each.
        weight: see above.
    """

    def __init__(self, views: Sequence[NDArray[np.floating[Any]]], weight: float = WEIGHT) -> None:
        self.weight = weight
        self.near = np.zeros((len(views[0]), len(views[0])), np.float32)  # [n, n]
        for view in views:
            self.near -= _distances(view.astype(np.float32)) / len(views)
        self.units = np.concatenate([_units(view.astype(np.float32)) for view in views], axis=1)
        self.mean = _units(self.units.mean(0, keepdims=True))[0]

    def __len__(self) -> int:
        return len(self.units)

    def score(self, kept: Indices) -> float:
        """L of a subset."""
        return float(self.near[kept].max(0).mean() + self.weight * self._whole(self.units[kept].sum(0)[None])[0])

    def best(self, budget: int, exchanges: int) -> Indices:
        """A subset of great L, sorted.

        Args:
            budget: tiles to keep.
            exchanges: of single tiles, at most; 0 for the greedy choice.

        Raises:
            HistillError: usage (2) if the budget is beyond what there is.
        """
        check_budget(budget, len(self))
        kept = self._greedy(budget)
        value = self.score(kept)
        for _ in range(exchanges if budget < len(self) else 0):
            values = self._exchanged(kept)  # [n, budget]
            coming, leaving = np.unravel_index(values.argmax(), values.shape)
            if values[coming, leaving] <= value + LEAST_GAIN:
                break
            kept[leaving], value = coming, float(values[coming, leaving])
        return np.sort(kept)

    def _greedy(self, budget: int) -> Indices:
        """Again and again the tile that makes L greatest."""
        kept = np.empty(budget, np.int64)
        nearest = np.full(len(self), self.near.min(), np.float32)
        total = np.zeros_like(self.mean)
        for i in range(budget):
            values = np.maximum(nearest, self.near).mean(1) + self.weight * self._whole(total + self.units)  # [n]
            values[kept[:i]] = -np.inf
            kept[i] = values.argmax()
            nearest, total = np.maximum(nearest, self.near[kept[i]]), total + self.units[kept[i]]
        return kept

    def _exchanged(self, kept: Indices) -> NDArray[np.float32]:
        """L with each tile in the place of each kept one, float32 [n, budget]; -inf where the tile is kept already."""
        order = np.argsort(-self.near[kept], axis=0, kind="stable")[:2]  # [2, n]: the nearest kept one, and the next
        columns = np.arange(len(self))
        first = self.near[kept[order[0]], columns]  # [n]
        # Without its nearest, a tile falls back to the next; a summary of one has none.
        second = self.near[kept[order[-1]], columns] if len(kept) > 1 else np.full_like(first, self.near.min())
        with_both = np.maximum(self.near, first)  # [n, n]
        falls = np.maximum(self.near, second) - with_both  # [n, n]
        owners = np.zeros((len(self), len(kept)), np.float32)
        owners[columns, order[0]] = 1
        covered = (with_both.sum(1, keepdims=True) + falls @ owners) / len(self)  # [n, budget]
        left = self.units[kept].sum(0) - self.units[kept]  # [budget, w]
        along = (self.units @ self.mean)[:, None] + left @ self.mean  # [n, budget]
        squares = (left**2).sum(1) + 2 * self.units @ left.T + (self.units**2).sum(1)[:, None]  # [n, budget]
        lengths = np.sqrt(np.maximum(squares, 1e-12))
        values: NDArray[np.float32] = (covered + self.weight * along / lengths).astype(np.float32)
        values[kept] = -np.inf
        return values

    def _whole(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine of sums [m, w] of tiles to the mean of all, [m]."""
        cosines: NDArray[np.float32] = sums @ self.mean / np.maximum(np.linalg.norm(sums, axis=1), 1e-6)
        return cosines


def _distances(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances [n, n] over their mean; 0 where all tiles are the same."""
    view = view - view.mean(0)
    squares = (view * view).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * view @ view.T, 0)
    np.fill_diagonal(distances, 0)
    mean = distances.mean()
    relative: NDArray[np.float32] = (distances / mean).astype(np.float32) if mean > 0 else distances
    return relative


def _units(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at length 1; those of length 0 stay."""
    lengths = np.linalg.norm(view, axis=1, keepdims=True)
    units: NDArray[np.float32] = (view / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return units
