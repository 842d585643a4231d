import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.report import Number
from histill.metrics.bootstrap import number, paired, resample, verdict
from histill.metrics.segmentation import class_iou, mean_iou


def drawn_cases(resampling, patients, draw):
    """The cases of one draw, spelt out: each patient's cases as often as the patient was drawn."""
    names = sorted(set(patients))
    times = resampling.weights[draw].astype(int)
    return [
        i
        for name, often in zip(names, times, strict=True)
        for _ in range(often)
        for i in np.flatnonzero(np.array(patients) == name)
    ]


def test_each_draw_takes_as_many_patients_as_there_are():
    resampling = resample(list("bacab"), draws=500)
    assert resampling.patients == 3
    assert resampling.weights.shape == (501, 3)
    assert (resampling.weights[0] == 1).all()
    assert (resampling.weights.sum(1) == 3).all()
    assert len(np.unique(resampling.weights, axis=0)) == 10  # all the ways to draw 3 of 3
    np.testing.assert_array_equal(resampling.patient, [1, 0, 2, 0, 1])


def test_pooled_measures_equal_the_obvious_loop():
    random = np.random.default_rng(0)
    patients = list("aabbbcdde")
    tables = random.integers(0, 50, (9, 3, 3))
    tables[:6, 2] = tables[:6, :, 2] = 0  # a class that some draws lack
    resampling = resample(patients, seed=5, draws=40)
    sums = resampling.sums(tables)
    for draw in range(41):
        together = sum((tables[i] for i in drawn_cases(resampling, patients, draw)), np.zeros((3, 3)))
        np.testing.assert_array_equal(sums[draw], together)
        np.testing.assert_array_equal(class_iou(sums)[draw], class_iou(together))
    np.testing.assert_array_equal(sums[0], tables.sum(0))
    assert np.isnan(class_iou(sums)[:, 2]).any()
    assert not np.isnan(mean_iou(sums)).any()


def test_means_over_cases_equal_the_obvious_loop():
    random = np.random.default_rng(1)
    patients = list("aabbbcdde")
    values = random.random((9, 2))
    values[[0, 3, 8], 0] = np.nan
    values[:, 1] = np.nan
    resampling = resample(patients, seed=6, draws=40)
    means = resampling.means(values)
    for draw in range(41):
        chosen = [v for v in values[drawn_cases(resampling, patients, draw), 0] if not np.isnan(v)]
        assert means[draw, 0] == pytest.approx(np.mean(chosen) if chosen else np.nan, nan_ok=True)
    assert np.isnan(means[:, 1]).all()


def test_the_interval_is_that_of_the_percentiles_without_nan():
    replicates = np.concatenate([[0.5], np.linspace(0, 1, 1001), [np.nan] * 7])
    result = number(replicates, 12)
    assert (result.value, result.n, result.low, result.high) == (0.5, 12, pytest.approx(0.025), pytest.approx(0.975))
    assert number(np.array([np.nan, 0.1, 0.2]), 3).low is None
    assert number(np.array([0.3, np.nan]), 3) == Number(0.3, 3)


@pytest.mark.parametrize("patients", [["a"], ["a", "a", "a"]])
def test_one_patient_gives_no_interval(patients):
    resampling = resample(patients)
    result = number(resampling.means(np.arange(float(len(patients)))), len(patients))
    assert result == Number((len(patients) - 1) / 2, len(patients))


def test_the_seed_alone_decides():
    one, two, other = resample(list("abcd"), seed=1), resample(list("dcba"), seed=1), resample(list("abcd"), seed=2)
    np.testing.assert_array_equal(one.weights, two.weights)
    assert (one.weights != other.weights).any()
    values = np.random.default_rng(0).random(4)
    np.testing.assert_allclose(one.means(values), two.means(values[::-1].copy()))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(7)
    patients = [f"{i // 3}" for i in range(120)]
    held = 0
    for trial in range(200):
        values = np.repeat(random.normal(size=40), 3) + 0.1 * random.normal(size=120)
        result = number(resample(patients, seed=trial, draws=400).means(values), 120)
        held += result.low <= 0 <= result.high
    # 95 % within the noise of 200 trials; drawing images instead of patients would hold about 74 %.
    assert 0.89 <= held / 200 <= 0.99


@given(st.floats(-1, 1), st.floats(0, 1))
def test_the_verdict_turns_with_the_names_and_the_measure(low, width):
    difference, turned = Number(low, 3, low, low + width), Number(-low, 3, -low - width, -low)
    assert verdict(difference, names=("a", "b")) == verdict(turned, names=("b", "a"))
    assert verdict(difference, names=("a", "b"), better="lower") == verdict(turned, names=("a", "b"))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "x beats y"),
        (-0.2, -0.01, "y beats x"),
        (-0.1, 0.1, "not shown"),
        (0.0, 0.1, "not shown"),
        (None, None, "not shown"),
    ],
)
def test_the_verdict_needs_the_whole_interval_on_one_side(low, high, said):
    assert verdict(Number(0.05, 9, low, high), names=("x", "y")) == said


def test_pairing_sees_a_small_steady_difference_that_single_intervals_hide():
    random = np.random.default_rng(3)
    hard = random.random(30)
    resampling = resample([str(i) for i in range(30)])
    a, b = resampling.means(hard + 0.02 + 0.01 * random.random(30)), resampling.means(hard)
    assert number(b, 30).high > number(a, 30).low
    shown = paired(a, b, 30, names=("new", "old"))
    assert shown.verdict == "new beats old"
    assert shown.number.value == pytest.approx(a[0] - b[0])
    assert paired(a, b, 30, names=("new", "old"), better="lower").verdict == "old beats new"
    assert paired(a, a, 30).verdict == "not shown"
