"""Groups of tiles that look alike, and subsets that take from every group by its size.

WSISum, section "sampling": k-means with k = 50, a quota for each cluster by largest remainder, tiles at random inside.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from histill.core.errors import Exit, HistillError
from histill.core.seeds import derive

Features = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

CLUSTERS = 50
"""The paper's k."""

WHOLE = 1 << 30
"""Multiplications in a pass over all tiles up to which every step of k-means sees them all; else it sees a batch."""

BATCH, PASSES = 4096, 10
"""Tiles in such a batch, and how often at most they go over the bag."""

AT_ONCE = 256
"""Clusters looked for in one go where the passes are larger: more of them are looked for inside of coarse ones."""


@dataclass(frozen=True)
class Clusters:
    """Groups of tiles; none is empty.

    Attributes:
        labels: int64 [n], each tile's cluster, 0 to k - 1.
        centres: float32 [k, d].
    """

    labels: Indices
    centres: NDArray[np.float32]

    @property
    def sizes(self) -> Indices:
        """Tiles in each cluster, [k]."""
        return np.bincount(self.labels, minlength=len(self.centres)).astype(np.int64)

    def take(self, rows: Indices) -> Clusters:
        """The clusters of some of the tiles, in the order of `rows`; those that are left without a tile go."""
        left, labels = np.unique(self.labels[rows], return_inverse=True)
        return Clusters(labels.astype(np.int64), self.centres[left])


def cluster(features: Features, seed: int, k: int = CLUSTERS) -> Clusters:
    """Group tiles by k-means.

    The same features and seed give the same bytes, whatever the number of threads: it computes with one. A bag of up to
    `WHOLE` multiplications a pass is clustered as a whole; a larger one in batches and, where more than `AT_ONCE`
    clusters are asked for, in two steps, the second inside each cluster of the first. So time grows as n d, and memory
    beside the features is that of a few batches, or a copy of them where they are not float32 or few.

    Args:
        features: [n, d], finite; computed in float32.
        seed: of where it starts, and of the batches.
        k: clusters; fewer come back where there are fewer tiles, or fewer that differ.

    Returns:
        Its clusters.
    """
    features = np.ascontiguousarray(features, np.float32)
    k = min(k, len(features))
    small = features.size * k <= WHOLE
    if k > AT_ONCE and not small:
        return _cluster_twice(features, seed, k)
    # These take a second to import.
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    state = derive(seed, "k-means") % (1 << 32)
    if small:
        model = KMeans(k, n_init=1, random_state=state)
    else:
        model = MiniBatchKMeans(k, n_init=1, random_state=state, batch_size=BATCH, max_iter=PASSES)
    # What several threads add up differs in the last bits.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # It warns of fewer tiles that differ than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features)
    return _clusters(features, model.labels_)


def _cluster_twice(features: NDArray[np.float32], seed: int, k: int) -> Clusters:
    """Clusters inside of coarse clusters, each of which holds one and its share of the others."""
    coarse = cluster(features, seed, CLUSTERS)
    if len(coarse.centres) == 1:
        return coarse
    shares = 1 + quotas(coarse.sizes - 1, k - len(coarse.centres))
    labels, centres = np.empty(len(features), np.int64), []
    found = 0
    for i, share in enumerate(shares.tolist()):
        members = np.flatnonzero(coarse.labels == i)
        inside = cluster(features[members], derive(seed, "inside", i), share)
        labels[members] = found + inside.labels
        centres.append(inside.centres)
        found += len(inside.centres)
    return Clusters(labels, np.concatenate(centres))


def _clusters(features: NDArray[np.float32], found: NDArray[np.int32]) -> Clusters:
    """Clusters without the empty ones, and their tiles' means: where tiles are the same, scikit-learn's are not."""
    _, labels, sizes = np.unique(found, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), features.shape[1]))
    for start in range(0, len(features), BATCH):
        part = features[start : start + BATCH].astype(np.float64)
        places = (labels[start : start + BATCH], np.arange(len(part)))
        sums += csr_array((np.ones(len(part)), places), shape=(len(sizes), len(part))) @ part  # [k, d]
    return Clusters(labels.astype(np.int64), (sums / sizes[:, None]).astype(np.float32))


def quotas(sizes: Indices, budget: int) -> Indices:
    """How many tiles each cluster gives, by largest remainder; of equal remainders the first cluster's wins.

    A cluster's share is `budget * size / n`. It gives the share's whole part, or one more where the share's remainder
    is among the largest: never more than it has, as a share is at most the size. So where the budget is small, small
    clusters give nothing in any draw.

    Args:
        sizes: tiles in each cluster, [k].
        budget: how many in all, 0 to n.

    Returns:
        int64 [k]; its sum is the budget.

    Raises:
        HistillError: usage (2) if the budget is beyond what there is.
    """
    sizes = np.asarray(sizes, np.int64)
    n = int(sizes.sum())
    check_budget(budget, n, least=0)
    given, remainders = np.divmod(budget * sizes, max(n, 1))
    first = np.argsort(-remainders, kind="stable")[: budget - int(given.sum())]
    given[first] += 1
    return given


def draw(clusters: Clusters, budget: int, generator: np.random.Generator) -> Indices:
    """A fresh subset: each cluster gives its quota, drawn at random inside it.

    Args:
        clusters: of the tiles.
        budget: how many tiles, 0 to n.
        generator: of the draw; another draw from it gives another subset.

    Returns:
        int64 [budget], sorted, each tile once.

    Raises:
        HistillError: usage (2) if the budget is beyond what there is.
    """
    given = quotas(clusters.sizes, budget)
    shuffled = generator.random(len(clusters.labels))
    return np.flatnonzero(ranks(clusters.labels, shuffled) < given[clusters.labels])


def ranks(labels: Indices, values: NDArray[Any]) -> Indices:
    """Each tile's place among those of its cluster, from 0, in rising order of a value; ties by index.

    Args:
        labels: each tile's cluster, [n].
        values: what to order by, [n].

    Returns:
        int64 [n].
    """
    order = np.lexsort((values, labels))
    grouped = labels[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    lengths = np.diff(np.r_[starts, len(labels)])
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return places


def check_budget(budget: int, n: int, *, least: int = 1) -> None:
    """Refuse a budget that a bag of n tiles cannot give.

    Raises:
        HistillError: usage (2).
    """
    if not least <= budget <= n:
        raise HistillError(
            f"a budget of {budget} tiles, of a bag of {n}",
            code=Exit.USAGE,
            subject="budget",
            mend=f"Ask for {least} to {n} tiles" if n >= least else "Leave out slides without tiles",
        )
