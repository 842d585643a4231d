"""Clusters, quotas and draws against slow, obvious versions."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from histill.core.errors import Exit, HistillError
from histill.selection import clusters as module
from histill.selection.clusters import Clusters, cluster, draw, quotas, ranks


def blobs(n: int = 300, d: int = 6, k: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of k kinds of tiles that lie far apart, and each tile's kind."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, k, n)
    return (100 * np.eye(k, d)[kinds] + random.normal(size=(n, d))).astype(np.float32), kinds


def inertia(features: np.ndarray, clusters: Clusters) -> float:
    return float(((features - clusters.centres[clusters.labels]) ** 2).sum())


# --- clusters -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["as a whole", "in batches", "in two steps"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way by which bags of some size are clustered, on small bags."""
    if request.param != "as a whole":
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "BATCH", 64)
    if request.param == "in two steps":
        monkeypatch.setattr(module, "AT_ONCE", 4)
        monkeypatch.setattr(module, "CLUSTERS", 3)


@pytest.mark.parametrize("whole", [0, module.WHOLE])
def test_kinds_that_lie_far_apart_are_found(monkeypatch: pytest.MonkeyPatch, whole: int) -> None:
    monkeypatch.setattr(module, "WHOLE", whole)
    features, kinds = blobs()
    clusters = cluster(features, seed=3, k=5)
    pairs = set(zip(kinds.tolist(), clusters.labels.tolist(), strict=True))
    assert len(pairs) == len(clusters.centres) == 5
    for kind, label in pairs:
        np.testing.assert_allclose(clusters.centres[label], features[kinds == kind].mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(clusters.sizes, [(clusters.labels == i).sum() for i in range(5)])


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("n", [1, 2, 7, 60, 130])
def test_no_cluster_is_empty_and_small_bags_have_fewer(n: int) -> None:
    features, _ = blobs(n)
    clusters = cluster(features, seed=0, k=60)
    assert 1 <= len(clusters.centres) <= min(n, 60)
    assert clusters.labels.shape == (n,)
    assert clusters.labels.dtype == np.int64
    assert clusters.centres.dtype == np.float32
    assert clusters.sizes.min() >= 1
    assert clusters.sizes.sum() == n


@pytest.mark.usefixtures("_way")
def test_the_seed_alone_decides_to_the_byte() -> None:
    features = np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)

    def digest(seed: int, threads: int) -> str:
        with threadpool_limits(limits=threads):
            clusters = cluster(features, seed, k=20)
        return hashlib.sha256(clusters.labels.tobytes() + clusters.centres.tobytes()).hexdigest()

    assert digest(0, 1) == digest(0, 2) == digest(0, 2)
    assert digest(0, 1) != digest(1, 1)


def test_k_means_computes_with_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, fit = [], KMeans.fit

    def watched(model: KMeans, features: np.ndarray) -> KMeans:
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(model, features)

    monkeypatch.setattr(KMeans, "fit", watched)
    with threadpool_limits(limits=2):
        cluster(blobs()[0], seed=0, k=5)
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(threads) == {1}


@pytest.mark.usefixtures("_way")
def test_tiles_that_are_the_same_share_a_cluster() -> None:
    features = np.repeat(np.eye(3, 8), [5, 1, 40], axis=0)
    clusters = cluster(features, seed=0, k=10)
    assert sorted(clusters.sizes.tolist()) == [1, 5, 40]
    assert inertia(features, clusters) == pytest.approx(0, abs=1e-9)
    assert len(cluster(np.ones((30, 4)), seed=0, k=10).centres) == 1


def test_the_default_is_the_papers_fifty() -> None:
    features = np.random.default_rng(0).normal(size=(120, 4))
    assert len(cluster(features, seed=0).centres) == 50


@pytest.mark.parametrize("way", [{"WHOLE": 0, "BATCH": 64}, {"WHOLE": 0, "AT_ONCE": 8, "CLUSTERS": 5}])
def test_other_ways_are_nearly_as_tight_as_the_whole(monkeypatch: pytest.MonkeyPatch, way: dict[str, int]) -> None:
    features = np.random.default_rng(2).normal(size=(600, 5)).astype(np.float32)
    whole = inertia(features, cluster(features, seed=0, k=30))
    for name, value in way.items():
        monkeypatch.setattr(module, name, value)
    assert inertia(features, cluster(features, seed=0, k=30)) < 1.2 * whole


def test_in_two_steps_there_are_as_many_clusters_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 0)
    monkeypatch.setattr(module, "AT_ONCE", 8)
    monkeypatch.setattr(module, "CLUSTERS", 6)
    features = np.random.default_rng(4).normal(size=(200, 3))
    assert len(cluster(features, seed=0, k=120).centres) == pytest.approx(120, abs=6)


# --- quotas ---------------------------------------------------------------------------------------------------------


def slow_quotas(sizes: list[int], budget: int) -> list[int]:
    """One seat after the other to whoever's remainder is largest, in whole numbers."""
    n = sum(sizes)
    given = [budget * size // n for size in sizes]
    remainders = [budget * size % n for size in sizes]
    while sum(given) < budget:
        best = max(range(len(sizes)), key=lambda i: remainders[i])
        given[best], remainders[best] = given[best] + 1, -1
    return given


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20).filter(any), st.data())
def test_quotas_by_largest_remainder(sizes: list[int], data: st.DataObject) -> None:
    n = sum(sizes)
    budget = data.draw(st.integers(0, n))
    given_ = quotas(np.array(sizes), budget)
    assert given_.sum() == budget
    assert (given_ >= 0).all()
    assert (given_ <= sizes).all()
    assert (np.abs(given_ * n - budget * np.array(sizes)) < n).all()  # within 1 of the share
    assert given_.tolist() == slow_quotas(sizes, budget)


def test_quotas_by_hand() -> None:
    assert quotas(np.array([50, 30, 20]), 7).tolist() == [4, 2, 1]  # shares 3.5, 2.1, 1.4
    assert quotas(np.array([1, 1, 1, 1]), 2).tolist() == [1, 1, 0, 0]  # of equal remainders the first
    assert quotas(np.array([100_000, 99_999, 1]), 200_000).tolist() == [100_000, 99_999, 1]


@pytest.mark.parametrize("budget", [-1, 11])
def test_a_budget_beyond_the_bag_is_refused(budget: int) -> None:
    with pytest.raises(HistillError, match=f"a budget of {budget} tiles, of a bag of 10.*Ask for 0 to 10") as caught:
        quotas(np.array([4, 6]), budget)
    assert caught.value.code is Exit.USAGE


# --- draws ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 80), st.integers(1, 9), st.integers(0, 2**32), st.data())
def test_a_draw_takes_each_clusters_quota(n: int, k: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    labels = np.unique(random.integers(0, k, n), return_inverse=True)[1]
    clusters = Clusters(labels, np.zeros((labels.max() + 1, 2), np.float32))
    budget = data.draw(st.integers(0, n))
    drawn = draw(clusters, budget, random)
    assert drawn.dtype == np.int64
    assert sorted(set(drawn.tolist())) == drawn.tolist()
    taken = np.bincount(labels[drawn], minlength=len(clusters.centres))
    np.testing.assert_array_equal(taken, quotas(clusters.sizes, budget))


def test_draws_are_fresh_and_follow_from_the_generator() -> None:
    clusters = cluster(blobs(500)[0], seed=0)
    random = np.random.default_rng(0)
    trials = [draw(clusters, 63, random).tolist() for _ in range(50)]
    assert len({tuple(trial) for trial in trials}) == 50
    again = np.random.default_rng(0)
    assert [draw(clusters, 63, again).tolist() for _ in range(50)] == trials


def test_inside_a_cluster_every_tile_has_the_same_chance() -> None:
    labels = np.array([0] * 6 + [1] * 4)
    clusters = Clusters(labels, np.zeros((2, 1), np.float32))
    random = np.random.default_rng(5)
    counts = np.zeros(10)
    for _ in range(3000):
        counts[draw(clusters, 5, random)] += 1  # 3 of 6 and 2 of 4: one in two everywhere
    np.testing.assert_allclose(counts / 3000, 0.5, atol=0.05)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40))
def test_ranks_equal_the_slow_version(tiles: list[tuple[int, int]]) -> None:
    labels, values = np.array(tiles).T
    expected = [
        sum(other == label and (v, j) < (value, i) for j, (other, v) in enumerate(tiles))
        for i, (label, value) in enumerate(tiles)
    ]
    assert ranks(labels, values).tolist() == expected
