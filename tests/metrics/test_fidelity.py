"""Measures of a summary against slow, obvious versions, and the properties that make them measures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.metrics import fidelity as module
from histill.metrics.fidelity import (
    RIDGE,
    Recall,
    fidelity,
    mean_cosine,
    nearest_cosines,
    rare_recall,
    reconstruction,
)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return float(one @ other) / lengths if lengths else 0.0


def slow_nearest(features: np.ndarray, kept: list[int]) -> list[float]:
    return [1.0 if i in kept else max(cosine(tile, features[j]) for j in kept) for i, tile in enumerate(features)]


def slow_reconstruction(features: np.ndarray, kept: list[int], ridge: float) -> float:
    """Each tile by the normal equations of its own regression."""
    mean, middle = features.mean(0), features[kept].mean(0)
    total = sum(float(((tile - mean) ** 2).sum()) for tile in features)
    penalty = ridge * total / len(features)
    about = features[kept] - middle  # [b, d]
    error = 0.0
    for i, tile in enumerate(features):
        if i not in kept:
            weights = np.linalg.solve(about @ about.T + penalty * np.eye(len(kept)), about @ (tile - middle))
            error += float(((tile - middle - weights @ about) ** 2).sum())
    return 1 - error / total


@st.composite
def bags(draw, least=2):
    n, d = draw(st.integers(least, 30)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = random.normal(draw(st.sampled_from([0, 5])), 1, (n, d)).astype(np.float32)
    if draw(st.booleans()):
        features[random.random(n) < 0.3] = features[0]
    if draw(st.booleans()):
        features[random.random(n) < 0.2] = 0
    kept = random.permutation(n)[: draw(st.integers(1, n))]
    return features, kept


@given(bags(), st.integers(1, 400))
def test_measures_equal_the_slow_versions_in_pieces_of_any_size(case, chunk):
    features, kept = case
    wide = features.astype(np.float64)
    nearest = slow_nearest(wide, kept.tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        measured = fidelity(features, kept)
        np.testing.assert_allclose(nearest_cosines(features, kept), nearest, atol=2e-6)
    assert measured.nearest_cosine == pytest.approx(sum(nearest) / len(nearest), abs=2e-6)
    assert measured.radius == pytest.approx(1 - min(nearest), abs=2e-6)
    if len(kept) < len(features) and len(np.unique(features, axis=0)) > 1:
        assert measured.reconstruction == pytest.approx(slow_reconstruction(wide, kept.tolist(), RIDGE), abs=1e-9)
    means = wide[kept].mean(0), wide.mean(0)
    if all(math.hypot(*mean) > 1e-9 for mean in means):
        assert measured.mean_cosine == pytest.approx(cosine(*means), abs=1e-6)


@pytest.mark.parametrize("ridge", [1e-6, 0.01, 1, 100])
@pytest.mark.parametrize(("n", "d", "b"), [(40, 6, 20), (40, 20, 6), (12, 30, 11), (9, 3, 1)])
def test_the_ridge_regression_of_more_or_fewer_tiles_than_features(ridge, n, d, b):
    features = np.random.default_rng(b).normal(size=(n, d))
    expected = slow_reconstruction(features, list(range(b)), ridge)
    assert reconstruction(features, np.arange(b), ridge) == pytest.approx(expected, abs=1e-8)


def test_by_hand():
    features = np.array([[1.0, 0], [0, 1], [1, 1], [-2, 0]])
    np.testing.assert_allclose(nearest_cosines(features, np.array([0, 1])), [1, 1, math.sqrt(0.5), 0], atol=1e-7)
    measured = fidelity(features, np.array([0, 1]))
    assert measured.nearest_cosine == pytest.approx((2 + math.sqrt(0.5)) / 4)
    assert measured.radius == pytest.approx(1)
    # The mean of all is (0, .5), of the kept (.5, .5).
    assert measured.mean_cosine == pytest.approx(math.sqrt(0.5))
    # About (.5, .5) the kept are +-(.5, -.5): one direction u = (1, -1) / sqrt 2, s^2 = 1. About (0, .5) the tiles
    # have squared lengths 1.25, .25, 1.25, 4.25: 7 in all; lambda = .1 * 7 / 4. (1, 1) has nothing along u, all .5
    # outside of it; (-2, 0) has -2 / sqrt 2 along u, and 4.5 outside of it.
    left = 0.175 / 1.175
    assert measured.reconstruction == pytest.approx(1 - (0.5 + 4.5 + 2 * left**2) / 7)


@given(bags())
def test_all_tiles_are_the_best_summary(case):
    features, kept = case
    best = fidelity(features, np.arange(len(features)))
    assert best.nearest_cosine == 1
    assert best.radius == 0
    assert best.reconstruction == 1
    assert best.mean_cosine == pytest.approx(1)
    measured = fidelity(features, kept)
    assert measured.nearest_cosine <= 1
    assert measured.mean_cosine <= 1
    assert measured.reconstruction <= 1
    assert measured.radius >= 0


@given(bags(least=3), st.data())
def test_one_more_tile_never_lowers_what_is_nearest(case, data):
    features, kept = case
    more = np.append(kept, data.draw(st.sampled_from([i for i in range(len(features)) if i not in kept] or [-1])))
    if more[-1] < 0:
        return
    gained = nearest_cosines(features, more) - nearest_cosines(features, kept)
    assert gained.min() >= -2e-6
    assert gained.max() > 0 or 1 in np.round(nearest_cosines(features, kept)[more[-1:]], 5)
    assert fidelity(features, more).radius <= fidelity(features, kept).radius + 2e-6


@given(bags(), st.sampled_from([0.01, 2.0, 300.0]))
def test_the_features_scale_and_the_order_of_what_is_kept_change_nothing(case, scale):
    features, kept = case
    one, other = fidelity(features, kept), fidelity(features.astype(np.float64) * scale, np.sort(kept))
    for name in ("nearest_cosine", "reconstruction", "radius"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=4e-6)


def test_reconstruction_knows_a_kind_that_is_not_kept():
    random = np.random.default_rng(0)
    kinds = np.repeat(np.eye(5, 40) * 10, 20, axis=0) + random.normal(size=(100, 40))
    four, five = np.arange(0, 80, 4), np.arange(0, 100, 5)
    assert reconstruction(kinds, five) > reconstruction(kinds, four) + 0.1


def test_reconstruction_of_a_large_summary_is_not_perfect_for_its_size_alone():
    noise = np.random.default_rng(0).normal(size=(400, 20))
    assert reconstruction(noise, np.arange(40), 1e-9) > 1 - 1e-6
    assert reconstruction(noise, np.arange(40)) < 1 - 1e-3


def test_a_poor_guess_is_below_nothing_and_equal_tiles_need_no_guess():
    features = np.concatenate([np.zeros((9, 2)), [[10.0, 10]]])
    assert reconstruction(features, np.array([9])) < 0
    same = fidelity(np.ones((5, 3)), np.array([2]))
    assert same.reconstruction == 1
    assert (same.nearest_cosine, same.mean_cosine, same.radius) == pytest.approx((1, 1, 0), abs=1e-6)


def test_means_of_nothing():
    features = np.array([[1.0, 0], [-1, 0], [0, 0]])
    assert mean_cosine(features, np.array([2])) == 1
    assert mean_cosine(features, np.array([0])) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_features_are_summed_wide(dtype):
    features = np.full((5000, 3), 100, dtype)
    features[:, 0] = np.arange(5000) % 2 * 200
    measured = fidelity(features, np.arange(0, 5000, 100))
    assert measured.mean_cosine == pytest.approx(cosine(np.array([0, 100, 100]), np.array([100, 100, 100])))
    assert math.isfinite(measured.reconstruction)


def test_rare_tiles_by_hand():
    rare = np.zeros(10, bool)
    rare[[2, 7]] = True
    assert rare_recall(rare, np.array([0, 1, 3, 4])) == Recall(found=False, in_bag=0.2, in_summary=0.0)
    assert rare_recall(rare, np.array([0, 1, 3, 7])) == Recall(found=True, in_bag=0.2, in_summary=0.25)
    assert rare_recall(rare, np.arange(10)) == Recall(found=True, in_bag=0.2, in_summary=0.2)
    with pytest.raises(HistillError, match="no tile is of the rare kind"):
        rare_recall(np.zeros(10, bool), np.array([1]))


@pytest.mark.parametrize("kept", [[], [0, 0], [-1], [5], [1, 2, 1]])
def test_a_summary_of_other_tiles_is_refused(kept):
    features = np.ones((5, 2))
    measures = (fidelity, nearest_cosines, mean_cosine, reconstruction)
    for measure in (*measures, lambda bag, given: rare_recall(bag[:, 0] > 0, given)):
        with pytest.raises(HistillError, match="each once") as caught:
            measure(features, np.array(kept, int))
        assert caught.value.code is Exit.INPUT


def test_the_published_summary_of_a_real_slide(data_root):
    h5py = pytest.importorskip("h5py")
    with h5py.File(data_root / "mil_features" / "TCGA-3C-AALI-01_conch15_500patches.h5") as file:
        features = file["features"][:500]
    with h5py.File(data_root / "mil_features" / "TCGA-3C-AALI-01_wsisum_summary.h5") as file:
        published = file["features"][:]
    kept = np.array([int(np.flatnonzero((features == tile).all(1))[0]) for tile in published])
    measured = fidelity(features, kept)
    assert measured.nearest_cosine == pytest.approx(0.9051, abs=5e-5)
    assert measured.mean_cosine == pytest.approx(0.9972, abs=5e-5)
