"""The likeness of some tiles to all, against loops and against every subset there is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.selection.likeness import Likeness

Views = list[NDArray[np.float32]]


def views(n: int, seed: int) -> Views:
    random = np.random.default_rng(seed)
    return [random.normal(0, 3, (n, 4)).astype(np.float32), random.normal(1, 1, (n, 6)).astype(np.float32)]


def slowly(seen: Views, kept: tuple[int, ...], weight: float) -> float:
    """L by its formula, tile by tile."""
    n = len(seen[0])
    total = 0.0
    scales = [np.mean([[((a - b) ** 2).sum() for a in view] for b in view]) for view in seen]
    for j in range(n):
        away = [
            np.mean([((view[i] - view[j]) ** 2).sum() / scale for view, scale in zip(seen, scales, strict=True)])
            for i in kept
        ]
        total -= min(away) / n
    units = np.concatenate([view / np.linalg.norm(view, axis=1, keepdims=True) for view in seen], axis=1)
    one, other = units[list(kept)].mean(0), units.mean(0)
    return float(total + weight * one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("kept", [(0,), (2, 5), (0, 3, 4, 6), tuple(range(8))])
def test_the_score_is_its_formula(kept: tuple[int, ...]) -> None:
    seen = views(8, 3)
    assert Likeness(seen, 0.7).score(np.array(kept)) == pytest.approx(slowly(seen, kept, 0.7), abs=1e-5)


@given(st.integers(2, 14), st.integers(1, 13), st.integers(0, 10_000))
def test_every_exchange_is_scored_as_the_subset_it_leads_to(n: int, budget: int, seed: int) -> None:
    budget = min(budget, n - 1)
    likeness = Likeness(views(n, seed))
    kept = np.random.default_rng(seed).choice(n, budget, replace=False)
    values = likeness._exchanged(kept)
    for coming in range(n):
        for leaving in range(budget):
            if coming in kept:
                assert values[coming, leaving] == -np.inf
                continue
            other = kept.copy()
            other[leaving] = coming
            assert values[coming, leaving] == pytest.approx(likeness.score(other), abs=1e-4)


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_what_is_found_is_as_good_as_exchanges_get_and_near_the_best(n: int, budget: int, seed: int) -> None:
    budget = min(budget, n)
    seen = views(n, seed)
    likeness = Likeness(seen)
    greedy, found = likeness.best(budget, 0), likeness.best(budget, 100)
    for kept in (greedy, found):
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == budget
    values = {subset: slowly(seen, subset, 0.3) for subset in combinations(range(n), budget)}
    assert values[tuple(found.tolist())] >= values[tuple(greedy.tolist())] - 1e-5
    for coming in set(range(n)) - set(found.tolist()):
        for leaving in range(budget):
            other = tuple(sorted([*np.delete(found, leaving).tolist(), coming]))
            assert values[other] <= values[tuple(found.tolist())] + 1e-4
    if budget == 1:
        assert values[tuple(found.tolist())] == pytest.approx(max(values.values()), abs=1e-4)


def test_a_rare_kind_is_kept_and_common_kinds_by_their_share() -> None:
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], [60, 36, 4])
    view = 10 * np.eye(3, dtype=np.float32)[kinds] + random.normal(0, 0.1, (100, 3)).astype(np.float32)
    kept = Likeness([view]).best(6, 50)
    assert set(kinds[kept]) == {0, 1, 2}


@pytest.mark.parametrize("same", [np.zeros((5, 3), np.float32), np.ones((5, 3), np.float16)])
def test_tiles_that_are_all_the_same_are_no_trouble(same: NDArray[np.floating]) -> None:
    kept = Likeness([same]).best(3, 10)
    assert len(set(kept.tolist())) == 3


def test_a_budget_beyond_the_bag_is_refused() -> None:
    with pytest.raises(HistillError) as caught:
        Likeness(views(4, 0)).best(5, 1)
    assert caught.value.code == Exit.USAGE


def test_scales_of_the_ways_do_not_matter() -> None:
    one, other = views(40, 1)
    np.testing.assert_array_equal(Likeness([one, other]).best(8, 50), Likeness([one * 64, other / 16]).best(8, 50))
