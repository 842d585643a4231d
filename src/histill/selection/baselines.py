"""Summaries without a learned model: tiles chosen at random, by clusters, entropy, place, attention, or far apart.

Each is a function of features, coordinates, budget and seed; `find` knows them by the names that a user gives. Where
scores tie, the tile with the smaller index wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from histill.core.errors import Exit, HistillError
from histill.core.seeds import generator
from histill.selection.clusters import Features, Indices, check_budget, cluster, draw, ranks

Coordinates = NDArray[np.integer[Any] | np.floating[Any]]
Selector = Callable[[Features, Coordinates, int, int], Indices]
"""Features [n, d], coordinates [n, 2], budget, seed -> the kept tiles' indices, int64 [budget], sorted, each once.

Computed in float32: features of another type are copied once."""

CELLS = 100
"""Cells along each side of the tissue's extent."""

CHUNK = 4096
"""Tiles at a time, where a measure of a tile needs its features in float64."""


def find(name: str, attention: NDArray[np.floating[Any]] | None = None) -> Selector:
    """A way to choose tiles, by its name.

    Args:
        name: one of `names`.
        attention: weights of the tiles, [n]; only "attention" looks at them, and cannot do without.

    Returns:
        What chooses. It refuses, with usage (2), a budget beyond what there is, and with input (4) features or
        coordinates that are not finite or do not belong together.

    Raises:
        HistillError: usage (2) if there is no such name, or no weights.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise HistillError(
            f"there is no way to choose tiles called '{name}'",
            code=Exit.USAGE,
            subject="by",
            mend=f"{hint}Known: {', '.join(names())}",
        )
    if name != ATTENTION:
        return partial(_choose, BASELINES[name])
    if attention is None:
        raise HistillError(
            "no attention to choose by",
            code=Exit.USAGE,
            subject="by",
            mend="Give the tiles' weights, as a trained bag model predicts them",
        )
    return partial(_choose, partial(by_attention, attention))


def names() -> tuple[str, ...]:
    """All names that `find` knows."""
    return *BASELINES, ATTENTION


def _choose(select: Selector, features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """What stands around every choice: the checks before it, the order after it."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        features = np.ascontiguousarray(features, np.float32)
    coords, n = np.asarray(coords), len(features)
    check_budget(budget, n)
    if features.ndim != 2 or coords.shape != (n, 2):
        raise _unfit(f"features of shape {features.shape} and coordinates of shape {coords.shape}")
    if not np.isfinite(coords).all() or not all(np.isfinite(features[i : i + CHUNK]).all() for i in range(0, n, CHUNK)):
        raise _unfit("features or coordinates that are not finite")
    return np.sort(select(features, coords, budget, seed)).astype(np.int64, copy=False)


def _unfit(what: str) -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject="bag", mend="Make the slide's features anew")


def at_random(features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """Tiles at random, each with the same chance."""
    return generator(seed, "random").choice(len(features), budget, replace=False)


def near_centres(features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """The tile nearest to each of as many k-means centres as there is budget.

    It is the nearest in the centre's own cluster. Where k-means finds fewer clusters (tiles that are the same), the
    second nearest of each follow, and so on, those nearest to their centre first. Cost: see `cluster`.
    """
    clusters = cluster(features, seed, budget)
    distances = np.empty(len(features))
    for start in range(0, len(features), CHUNK):
        part = slice(start, start + CHUNK)
        away = features[part].astype(np.float64) - clusters.centres[clusters.labels[part]]
        distances[part] = (away * away).sum(1)
    return np.lexsort((distances, ranks(clusters.labels, distances)))[:budget]


def from_clusters(features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """Tiles at random from each of 50 k-means clusters, as many as its share of the bag."""
    return draw(cluster(features, seed), budget, generator(seed, "draw"))


def by_entropy(features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """The tiles of largest Shannon entropy of their features' absolute values, made to sum to 1.

    A tile whose features are all 0 has an entropy of 0.
    """
    entropies = np.empty(len(features))
    for start in range(0, len(features), CHUNK):
        sizes = np.abs(features[start : start + CHUNK].astype(np.float64))
        sums = sizes.sum(1, keepdims=True)
        shares = sizes / np.where(sums > 0, sums, 1)
        logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        entropies[start : start + CHUNK] = -(shares * logarithms).sum(1)
    return _largest(entropies, budget)


def by_location(features: Features, coords: Coordinates, budget: int, seed: int) -> Indices:
    """An equal share of every cell with tissue, of 100 x 100 cells over the tissue's extent; at random inside a cell.

    In rounds: each round takes one tile of every cell that has one left, and the last takes it of cells at random.
    """
    low, high = coords.min(0).astype(np.float64), coords.max(0).astype(np.float64)
    extent = np.where(high > low, high - low, 1)
    column, row = np.minimum((coords - low) / extent * CELLS, CELLS - 1).astype(np.int64).T
    random = generator(seed, "location")
    rounds = ranks(row * CELLS + column, random.random(len(coords)))
    return np.lexsort((random.random(len(coords)), rounds))[:budget]


def by_attention(
    weights: NDArray[np.floating[Any]], features: Features, coords: Coordinates, budget: int, seed: int
) -> Indices:
    """The tiles of largest weight, such as a bag model's attention."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(features),) or not np.isfinite(weights).all():
        raise HistillError(
            f"attention of shape {weights.shape} for {len(features)} tiles, or not finite",
            code=Exit.INPUT,
            subject="attention",
            mend="Predict it anew from this bag",
        )
    return _largest(weights, budget)


def farthest(features: Features, coords: Coordinates, budget: int, seed: int, *, metric: str = "cosine") -> Indices:
    """Far apart: one tile at random, then again and again the tile farthest from all that are kept (cosine).

    The greedy k-centre, or coreset, of Gonzalez 1985: no tile is more than twice as far from a kept one as in the best
    choice (with euclidean distances). Cost: as many passes over the features as the budget, n d multiplications each;
    beside the features it needs memory for a few numbers a tile. A tile of all 0 has cosine 0 to others.
    """
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)  # [n]
    lengths = np.sqrt(np.where(squares > 0, squares, 1))
    kept = np.empty(budget, np.int64)
    kept[0] = generator(seed, "farthest").integers(len(features))
    nearest = np.full(len(features), np.inf)
    # What several threads add up differs in the last bits.
    with threadpool_limits(limits=1):
        for i in range(1, budget):
            last = kept[i - 1]
            products = (features @ features[last]).astype(np.float64)  # [n]
            if metric == "cosine":
                distances = 1 - products / (lengths * lengths[last])
            else:
                distances = squares + squares[last] - 2 * products
            np.minimum(nearest, distances, out=nearest)
            # Below every distance, rounding included: kept once, never again.
            nearest[last] = -np.inf
            kept[i] = nearest.argmax()
    return kept


def _largest(values: NDArray[np.floating[Any]], budget: int) -> Indices:
    return np.argsort(-values, kind="stable")[:budget]


ATTENTION = "attention"
BASELINES: dict[str, Selector] = {
    "random": at_random,
    "cluster": near_centres,
    "cluster-quota": from_clusters,
    "entropy": by_entropy,
    "location": by_location,
    "farthest": farthest,
    "farthest-euclidean": partial(farthest, metric="euclidean"),
}
"""All but "attention", which needs weights."""
