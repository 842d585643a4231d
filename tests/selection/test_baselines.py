"""Each way to choose tiles against a slow, obvious version, and what holds for all of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from histill.core.errors import Exit, HistillError
from histill.selection import baselines, clusters
from histill.selection.baselines import Selector, find, names
from histill.selection.clusters import cluster, quotas


def bag(n: int, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and coordinates of tiles of 256 px strewn over a slide."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)).astype(np.float32), 256 * random.integers(0, 400, (n, 2))


def by(name: str, n: int) -> Selector:
    return find(name, np.random.default_rng(9).random(n) if name == "attention" else None)


EVERY = pytest.mark.parametrize("name", names())
SEEDED = pytest.mark.parametrize("name", [name for name in names() if name not in {"entropy", "attention"}])


# --- what holds for all ---------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(("n", "budget"), [(1, 1), (2, 1), (40, 1), (40, 13), (40, 40), (700, 63), (700, 699)])
def test_a_choice_is_sorted_and_names_each_tile_once(name: str, n: int, budget: int) -> None:
    kept = by(name, n)(*bag(n), budget, 0)
    assert kept.dtype == np.int64
    assert kept.shape == (budget,)
    assert (np.diff(kept) > 0).all()
    assert kept[0] >= 0
    assert kept[-1] < n


@EVERY
@pytest.mark.parametrize(("n", "budget"), [(5, 6), (5, 0), (5, -1), (0, 1)])
def test_a_budget_that_the_bag_cannot_give_is_refused(name: str, n: int, budget: int) -> None:
    with pytest.raises(HistillError, match=f"a budget of {budget} tiles, of a bag of {n}") as caught:
        by(name, n)(*bag(n), budget, 0)
    assert caught.value.code is Exit.USAGE
    assert caught.value.mend


@EVERY
def test_the_same_seed_gives_the_same_tiles_whatever_the_threads(name: str) -> None:
    features, coords = bag(600, 32)
    with threadpool_limits(limits=2):
        first = by(name, 600)(features, coords, 50, 4)
    np.testing.assert_array_equal(by(name, 600)(features, coords, 50, 4), first)


@SEEDED
def test_another_seed_gives_other_tiles(name: str) -> None:
    features, coords = bag(600)
    choices = {tuple(by(name, 600)(features, coords, 20, seed).tolist()) for seed in range(5)}
    assert len(choices) == 5


@EVERY
@pytest.mark.parametrize("features", [np.zeros((30, 4)), np.ones((30, 4)), np.repeat(np.eye(3), 10, axis=0)])
def test_tiles_that_are_the_same_in_one_place_are_chosen_among(name: str, features: np.ndarray) -> None:
    for budget in (1, 7, 30):
        kept = by(name, 30)(features, np.zeros((30, 2), int), budget, 0)
        assert len(set(kept.tolist())) == budget


@EVERY
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_of_any_type_are_not_changed(name: str, dtype: type) -> None:
    features, coords = bag(80)
    features = features.astype(dtype)
    features.setflags(write=False)
    before = features.copy()
    assert len(by(name, 80)(features, coords, 9, 0)) == 9
    np.testing.assert_array_equal(features, before)


@EVERY
@pytest.mark.parametrize("fault", ["nan", "infinite", "too large", "place", "rank", "length", "places"])
def test_odd_arrays_are_refused(name: str, fault: str) -> None:
    features, coords = bag(20)
    coords = coords.astype(float)
    match fault:
        case "nan":
            features[7, 3] = np.nan
        case "infinite":
            features[19, 0] = np.inf
        case "too large":
            features = features.astype(float) * 1e300
        case "place":
            coords[4, 1] = np.nan
        case "rank":
            features = features[:, :, None]
        case "length":
            coords = coords[:-1]
        case "places":
            coords = np.zeros((20, 3))
    with pytest.raises(HistillError, match="bag: ") as caught:
        by(name, 20)(features, coords, 3, 0)
    assert caught.value.code is Exit.INPUT


# --- by name --------------------------------------------------------------------------------------------------------


def test_names() -> None:
    known = "random cluster cluster-quota entropy location farthest farthest-euclidean attention"
    assert sorted(names()) == sorted(known.split())


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(HistillError, match=r"called 'clusters'\. Did you mean 'cluster'.*Known: random, ") as caught:
        find("clusters")
    assert caught.value.code is Exit.USAGE


def test_attention_wants_weights_that_belong_to_the_bag() -> None:
    with pytest.raises(HistillError, match="no attention") as caught:
        find("attention")
    assert caught.value.code is Exit.USAGE
    for weights in (np.ones(9), np.ones((10, 1)), np.full(10, np.nan)):
        with pytest.raises(HistillError, match="attention of shape") as caught:
            find("attention", weights)(*bag(10), 3, 0)
        assert caught.value.code is Exit.INPUT


# --- one by one -----------------------------------------------------------------------------------------------------


def test_at_random_every_tile_has_the_same_chance() -> None:
    features, coords = bag(20)
    counts = sum(np.bincount(find("random")(features, coords, 5, seed), minlength=20) for seed in range(2000))
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.06)


def test_the_tile_nearest_to_each_centre_is_kept() -> None:
    features, coords = bag(200)
    groups = cluster(features, 3, 12)
    assert len(groups.centres) == 12
    expected = []
    for i, centre in enumerate(groups.centres):
        members = [j for j in range(200) if groups.labels[j] == i]
        expected.append(min(members, key=lambda j: (float(((features[j].astype(float) - centre) ** 2).sum()), j)))
    assert find("cluster")(features, coords, 12, 3).tolist() == sorted(expected)


def test_where_clusters_are_fewer_than_the_budget_the_next_nearest_follow() -> None:
    features = np.repeat([[0.0, 0.0], [9.0, 0.0]], [4, 2], axis=0)
    coords = np.zeros((6, 2), int)
    # Two clusters: one tile of each, then one more of each, then what is left; by index, as all are as near.
    choices = [find("cluster")(features, coords, budget, 0).tolist() for budget in (2, 3, 4, 5, 6)]
    assert choices == [[0, 4], [0, 1, 4], [0, 1, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2, 3, 4, 5]]


def test_by_quota_each_cluster_gives_its_share() -> None:
    features, coords = bag(300)
    groups = cluster(features, 5)
    kept = find("cluster-quota")(features, coords, 70, 5)
    given_ = np.bincount(groups.labels[kept], minlength=50)
    np.testing.assert_array_equal(given_, quotas(groups.sizes, 70))


def slow_entropy(tile: np.ndarray) -> float:
    sizes = [abs(float(value)) for value in tile]
    shares = [size / sum(sizes) for size in sizes if size]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_entropy_equals_the_slow_version(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    features, coords = bag(50)
    features[::4] = 0
    features[1, 1:] = 0
    order = sorted(range(50), key=lambda i: (-slow_entropy(features[i]), i))
    for budget in (1, 10, 37, 38, 39, 45):
        assert find("entropy")(features, coords, budget, 0).tolist() == sorted(order[:budget])


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**120])
def test_entropy_of_very_small_and_very_large_features(scale: float) -> None:
    features, coords = bag(50)
    expected = find("entropy")(features, coords, 10, 0)
    np.testing.assert_array_equal(find("entropy")(features * np.float32(scale), coords, 10, 0), expected)


def test_every_cell_gives_an_equal_share() -> None:
    # Cells of 10 px; tiles in three of them: 5, 3 and 1.
    coords = np.array([[0, 0], [1, 2], [3, 4], [9, 9], [5, 5], [500, 500], [501, 505], [509, 509], [1000, 1000]])
    features = np.zeros((9, 2))
    cells = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2])
    for seed in range(30):
        for budget, shares in ((3, [[1, 1, 1]]), (4, [[2, 1, 1], [1, 2, 1]]), (5, [[2, 2, 1]]), (8, [[4, 3, 1]])):
            kept = find("location")(features, coords, budget, seed)
            assert np.bincount(cells[kept], minlength=3).tolist() in shares
    # Fewer than there are cells: each is drawn, sooner or later, and inside a cell every tile.
    seen = {int(find("location")(features, coords, 1, seed)[0]) for seed in range(200)}
    assert seen == set(range(9))


def test_cells_are_a_hundredth_of_the_extent_wherever_that_lies() -> None:
    random = np.random.default_rng(0)
    coords = np.concatenate([[[-300, 70_000], [700, 72_000]], random.integers([-300, 70_000], [700, 72_000], (400, 2))])
    cells = [(min(99, (x + 300) * 100 // 1000), min(99, (y - 70_000) * 100 // 2000)) for x, y in coords.tolist()]
    several = len(set(cells))
    assert several < 402
    kept = find("location")(np.zeros((402, 1)), coords, several, 0)
    assert len({cells[i] for i in kept}) == several


def test_tissue_on_one_line_has_cells_along_it() -> None:
    coords = np.stack([np.arange(100), np.full(100, 7)], axis=1)
    coords = np.repeat(coords, 2, axis=0)
    kept = find("location")(np.zeros((200, 1)), coords, 100, 0)
    # The last cell holds the last two places: it gives one tile, and another cell two.
    assert len(set(coords[kept, 0].tolist())) >= 98


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_attention_keeps_the_largest_and_of_equals_the_first(weights: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, len(weights)))
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    kept = find("attention", np.array(weights))(*bag(len(weights)), budget, 0)
    assert kept.tolist() == sorted(order[:budget])


def slow_farthest(features: np.ndarray, first: int, budget: int, metric: str) -> list[int]:
    def distance(one: np.ndarray, other: np.ndarray) -> float:
        if metric == "euclidean":
            return math.dist(one, other)
        lengths = math.hypot(*one) * math.hypot(*other)
        return 1 - float(one @ other) / lengths if lengths else 1.0

    kept = [first]
    while len(kept) < budget:
        rest = [i for i in range(len(features)) if i not in kept]
        kept.append(max(rest, key=lambda i: min(distance(features[i], features[j]) for j in kept)))
    return sorted(kept)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(4))
def test_farthest_equals_the_slow_version(metric: str, seed: int) -> None:
    features, coords = bag(60, 5, seed)
    features[[3, 50]] = 0
    select = find("farthest" if metric == "cosine" else "farthest-euclidean")
    first = int(select(features, coords, 1, seed)[0])
    wide = features.astype(float)
    for budget in (2, 9, 25):
        assert select(features, coords, budget, seed).tolist() == slow_farthest(wide, first, budget, metric)


def test_farthest_takes_the_first_of_those_as_far() -> None:
    features = np.array([[0.0, 0], [3, 0], [-3, 0], [0, 3], [0, -3], [0, 0]])
    for seed in range(20):
        kept = find("farthest-euclidean")(features, np.zeros((6, 2), int), 2, seed)
        if 0 in kept:
            assert kept.tolist() == [0, 1]


def test_a_large_bag_in_pieces_is_chosen_from_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features, coords = bag(500)
    whole = {name: by(name, 500)(features, coords, 40, 1) for name in names()}
    monkeypatch.setattr(baselines, "CHUNK", 13)
    for name, expected in whole.items():
        np.testing.assert_array_equal(by(name, 500)(features, coords, 40, 1), expected)
    assert clusters.CLUSTERS == 50
