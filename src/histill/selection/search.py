"""A search for the tiles that stand in for a bag: fresh draws by cluster first, then exchanges of single tiles.

WSISum, section "summarise": each trial draws a cluster-quota subset, and the best trial wins. What is ours: many trials
are scored at once, and from the best one on single tiles are exchanged, which reaches a better score in fewer of them.
The best score never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from histill.core.config import Share, Strict
from histill.core.seeds import generator
from histill.selection.clusters import Clusters, check_budget, draw

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """What a model says of some subsets.

    Attributes:
        values: of each, the greater the better, float64 [trials].
        needs: how badly each tile is told, float64 [trials, n].
    """

    values: NDArray[np.float64]
    needs: NDArray[np.float64]


Score = Callable[[Sequence[Indices]], Scores]
"""Subsets, each sorted and of one size -> their scores."""


class SearchSettings(Strict):
    """How long is searched, and how."""

    trials: PositiveInt = 32
    """fresh draws by cluster that are scored first"""
    swaps: NonNegativeInt = 256
    """exchanges that are scored after them, at most; 0 for the paper's search"""
    patience: PositiveInt = 6
    """stops after so many rounds of exchanges without a better score"""
    at_once: PositiveInt = 16
    """subsets that are scored in one go"""
    step: Share = 0.1
    """share of the kept tiles that an exchange changes at first; halved whenever a round finds nothing better"""


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        kept: the best subset, sorted.
        value: its score.
        scored: how many subsets were scored.
        course: the best score after each round.
    """

    kept: Indices
    value: float
    scored: int
    course: tuple[float, ...]


def search(clusters: Clusters, budget: int, score: Score, settings: SearchSettings, seed: int) -> Found:
    """Look for a subset of the highest score.

    Args:
        clusters: of the bag's tiles.
        budget: tiles to keep.
        score: see `Score`.
        settings: how long.
        seed: of every draw.

    Raises:
        HistillError: usage (2) if the budget is beyond what there is.
    """
    n = len(clusters.labels)
    check_budget(budget, n)
    if budget == n:
        return Found(np.arange(n), float(score([np.arange(n)]).values[0]), 1, ())
    random = generator(seed, "search")
    best, found, course = None, 0, []
    while found < settings.trials:
        subsets = [draw(clusters, budget, random) for _ in range(min(settings.at_once, settings.trials - found))]
        best = _better(best, subsets, score(subsets))
        found += len(subsets)
        course.append(best.value)
    assert best is not None
    step, idle, most = settings.step, 0, settings.trials + settings.swaps
    while found < most and idle < settings.patience:
        subsets = [_exchanged(best, budget, step, random) for _ in range(min(settings.at_once, most - found))]
        better = _better(best, subsets, score(subsets))
        found += len(subsets)
        if better is best:
            idle, step = idle + 1, step / 2
        else:
            best, idle = better, 0
        course.append(best.value)
    return Found(best.kept, best.value, found, tuple(course))


@dataclass(frozen=True)
class _Best:
    kept: Indices
    value: float
    needs: NDArray[np.float64]


def _better(best: _Best | None, subsets: Sequence[Indices], scores: Scores) -> _Best:
    i = int(scores.values.argmax())
    if best is not None and not scores.values[i] > best.value:
        return best
    return _Best(subsets[i], float(scores.values[i]), scores.needs[i])


def _exchanged(best: _Best, budget: int, step: float, random: np.random.Generator) -> Indices:
    """A subset that differs in a few tiles: in come tiles that are told badly, out go any."""
    outside = np.setdiff1d(np.arange(len(best.needs)), best.kept)
    count = min(max(1, round(step * budget * random.random() * 2)), budget, len(outside))
    coming = random.choice(outside, count, replace=False, p=_chances(best.needs[outside]))
    leaving = random.choice(budget, count, replace=False)
    kept: Indices = np.sort(np.concatenate([np.delete(best.kept, leaving), coming]))
    return kept


def _chances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # By rank, as the scale of what models say differs from bag to bag; the highest has 55 times the lowest's chance.
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    weights = np.exp(4 * ranks / max(1, len(values) - 1))
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances
