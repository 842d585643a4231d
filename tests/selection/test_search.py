"""The search against all subsets there are, and what holds of it whatever the score."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from histill.core.errors import Exit, HistillError
from histill.selection.clusters import Clusters
from histill.selection.search import Scores, SearchSettings, search


class Cover:
    """How near each of some points on a line comes to one that is kept; it notes what it was asked of."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self.asked: list[list[int]] = []
        self.at_once: list[int] = []

    def far(self, subset: Sequence[int]) -> np.ndarray:
        """The distance of each point to the nearest that is kept."""
        return np.abs(self.points[:, None] - self.points[list(subset)]).min(1)

    def value(self, subset: Sequence[int]) -> float:
        return -float(self.far(subset).mean())

    def __call__(self, subsets: Sequence[np.ndarray]) -> Scores:
        self.at_once.append(len(subsets))
        self.asked += [subset.tolist() for subset in subsets]
        values = np.array([self.value(subset) for subset in subsets])
        return Scores(values, np.stack([self.far(subset) for subset in subsets]))


def line(n: int, seed: int = 0, k: int = 3) -> tuple[np.ndarray, Clusters]:
    random = np.random.default_rng(seed)
    points, labels = random.normal(size=n), np.arange(n) % min(k, n)
    return points, Clusters(labels, np.zeros((labels.max() + 1, 1), np.float32))


def chosen(**values: object) -> SearchSettings:
    return SearchSettings.model_validate(values)


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 9), st.data())
def test_whatever_the_budget_a_summary_is_of_real_tiles_each_once_and_sorted(
    n: int, seed: int, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, n))
    points, clusters = line(n, seed)
    score = Cover(points)
    found = search(clusters, budget, score, chosen(trials=3, swaps=9, at_once=4), seed)
    for subset in [found.kept.tolist(), *score.asked]:
        assert sorted(set(subset)) == subset
        assert len(subset) == budget
        assert 0 <= subset[0] <= subset[-1] < n
    assert found.kept.dtype == np.int64
    assert found.value == score.value(found.kept.tolist())
    assert found.value == max(score.value(subset) for subset in score.asked)
    assert found.scored == len(score.asked)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_score_never_falls_and_ends_as_what_is_found(seed: int) -> None:
    points, clusters = line(40, seed)
    score = Cover(points)
    found = search(clusters, 6, score, chosen(trials=10, swaps=60, at_once=7, patience=99), seed)
    assert list(found.course) == sorted(found.course)
    assert found.course[-1] == found.value
    assert len(found.course) == len(score.at_once)
    assert max(score.at_once) == 7
    assert found.scored == 70
    # After each round, the best of all that was asked until then.
    until = np.cumsum(score.at_once)
    values = [score.value(subset) for subset in score.asked]
    assert list(found.course) == [max(values[:asked]) for asked in until]


@pytest.mark.parametrize("seed", range(3))
def test_without_exchanges_more_trials_never_lower_the_score(seed: int) -> None:
    points, clusters = line(40, seed)
    found = [search(clusters, 6, Cover(points), chosen(trials=n, swaps=0), seed).value for n in (1, 2, 5, 20, 100)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_two_trials_differ_and_each_takes_every_clusters_quota() -> None:
    points, clusters = line(60)
    score = Cover(points)
    search(clusters, 9, score, chosen(trials=50, swaps=0), 0)
    assert len({tuple(subset) for subset in score.asked}) == 50
    assert all(np.bincount(clusters.labels[subset]).tolist() == [3, 3, 3] for subset in score.asked)


@pytest.mark.parametrize("seed", range(2))
def test_no_single_exchange_betters_what_a_long_search_finds(seed: int) -> None:
    points, clusters = line(11, seed)
    score = Cover(points)
    found = search(clusters, 4, score, chosen(trials=4, swaps=4000, patience=999), seed)
    kept = set(found.kept.tolist())
    near = [subset for subset in combinations(range(11), 4) if len(kept & set(subset)) >= 3]
    assert len(near) == 1 + 4 * 7
    assert found.value == max(score.value(subset) for subset in near)


def test_exchanges_reach_more_than_as_many_fresh_trials() -> None:
    gains = []
    for seed in range(4):
        points, clusters = line(150, seed)
        both = chosen(trials=20, swaps=200, patience=99), chosen(trials=220, swaps=0)
        swapped, drawn = (search(clusters, 12, Cover(points), each, seed).value for each in both)
        gains.append(swapped - drawn)
    assert np.mean(gains) > 0
    assert min(gains) > -0.02


def test_it_gives_up_after_rounds_without_a_better_score() -> None:
    points, clusters = line(40)

    def alike(subsets: Sequence[np.ndarray]) -> Scores:
        return Scores(np.zeros(len(subsets)), np.ones((len(subsets), 40)))

    found = search(clusters, 6, alike, chosen(trials=5, swaps=1000, at_once=10, patience=3), 0)
    assert found.scored == 5 + 3 * 10
    # Of equals the first wins.
    score = Cover(points)
    search(clusters, 6, score, chosen(trials=1, swaps=0), 0)
    assert found.kept.tolist() == score.asked[0]


def test_what_is_told_badly_comes_in_more_often() -> None:
    _, clusters = line(40)
    needs = np.linspace(0, 1, 40)
    came: list[int] = []
    first: list[int] = []

    def told(subsets: Sequence[np.ndarray]) -> Scores:
        for subset in subsets:
            first.extend(subset.tolist()) if not first else came.extend(set(subset.tolist()) - set(first))
        return Scores(np.zeros(len(subsets)), np.tile(needs, (len(subsets), 1)))

    search(clusters, 6, told, chosen(trials=1, swaps=1500, patience=999), 0)
    often = np.bincount(came, minlength=40)
    outside = np.setdiff1d(np.arange(40), first)
    low, high = often[outside[:10]].sum(), often[outside[-10:]].sum()
    assert high > 8 * low > 0


def test_the_seed_alone_decides() -> None:
    points, clusters = line(60)

    def found(seed: int, at_once: int = 16) -> list[int]:
        return search(clusters, 9, Cover(points), chosen(trials=8, swaps=30, at_once=at_once), seed).kept.tolist()

    assert found(0) == found(0)
    assert len({tuple(found(seed)) for seed in range(4)}) > 1
    # How many are scored at once is nothing to the trials.
    trials = [search(clusters, 9, Cover(points), chosen(trials=30, swaps=0, at_once=n), 0).kept for n in (1, 7, 64)]
    assert trials[0].tolist() == trials[1].tolist() == trials[2].tolist()


def test_a_budget_of_all_keeps_all() -> None:
    points, clusters = line(7)
    found = search(clusters, 7, Cover(points), chosen(), 0)
    assert found.kept.tolist() == list(range(7))
    assert (found.value, found.scored) == (0, 1)


@pytest.mark.parametrize("budget", [0, -1, 8])
def test_a_budget_beyond_the_bag_is_refused(budget: int) -> None:
    points, clusters = line(7)
    with pytest.raises(HistillError, match=f"a budget of {budget} tiles, of a bag of 7. Ask for 1 to 7") as caught:
        search(clusters, budget, Cover(points), chosen(), 0)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("values", [{"trials": 0}, {"step": float("inf")}, {"step": -0.1}, {"at_once": 0}])
def test_settings_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        chosen(**values)
