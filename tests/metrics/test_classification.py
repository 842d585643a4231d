"""Measures of classification against scikit-learn and against loops over pairs and draws."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from histill.core.errors import HistillError
from histill.metrics import classification
from histill.metrics.bootstrap import paired, resample
from histill.metrics.classification import auc, balanced_accuracy, classification_numbers, measures


def cases(n, k, seed=0, decimals=6):
    random = np.random.default_rng(seed)
    truth = random.integers(0, k, n)
    scores = random.random((n, k)) + 0.5 * np.eye(k)[truth]
    return truth, np.round(scores / scores.sum(1, keepdims=True), decimals)


def by_sklearn(truth, probabilities):
    k = probabilities.shape[1]
    areas = [
        sklearn.roc_auc_score(truth == c, probabilities[:, c])
        for c in ([1] if k == 2 else range(k))
        if 0 < (truth == c).sum() < len(truth)
    ]
    predicted = probabilities.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is predicted and never true
        balanced = sklearn.balanced_accuracy_score(truth, predicted)
    return {
        "AUC": np.mean(areas) if areas else np.nan,
        "balanced accuracy": balanced,
        "macro F1": sklearn.f1_score(truth, predicted, average="macro"),
        "ACC": sklearn.accuracy_score(truth, predicted),
    }


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("decimals", [1, 6])  # with one there are many ties
def test_measures_are_those_of_scikit_learn(k, decimals):
    truth, probabilities = cases(80, k, decimals=decimals)
    found = measures(truth, probabilities, resample([str(i) for i in range(80)], draws=1))
    assert {name: values[0] for name, values in found.items()} == pytest.approx(by_sklearn(truth, probabilities))


def test_macro_auc_is_scikit_learns_one_versus_rest():
    truth, probabilities = cases(60, 4)
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = sklearn.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    found = measures(truth, probabilities, resample(["one"] * 60))
    assert found["AUC"] == pytest.approx([expected])


@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_every_draw_is_the_measure_of_its_cases(chunk, monkeypatch):
    monkeypatch.setattr(classification, "CHUNK", chunk)
    truth, probabilities = cases(14, 3, decimals=1)
    patients = list("aabbbcddefghij")
    resampling = resample(patients, seed=3, draws=20)
    found = measures(truth, probabilities, resampling)
    names = sorted(set(patients))
    for draw in range(21):
        chosen = [
            i
            for name, often in zip(names, resampling.weights[draw].astype(int), strict=True)
            for _ in range(often)
            for i in range(14)
            if patients[i] == name
        ]
        expected = by_sklearn(truth[chosen], probabilities[chosen])
        assert {name: values[draw] for name, values in found.items()} == pytest.approx(expected, nan_ok=True)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=12),
)
def test_auc_counts_pairs(drawn):
    positive, scores, weights = (np.array(column) for column in zip(*drawn, strict=True))
    won = pairs = 0.0
    for is_positive, score, weight in drawn:
        for other_positive, other, often in drawn:
            if is_positive and not other_positive:
                pairs += weight * often
                won += weight * often * ((score > other) + (score == other) / 2)
    expected = won / pairs if pairs else np.nan
    assert auc(positive, scores.astype(float), weights[None].astype(float))[0] == pytest.approx(expected, nan_ok=True)


def test_intervals_are_drawn_by_patients():
    truth, probabilities = cases(40, 2)
    alone = classification_numbers(truth, probabilities, [str(i) for i in range(40)])
    # Each case ten times over, of the same patient: not a bit surer.
    patients = [str(i) for i in range(40)] * 10
    often = classification_numbers(np.tile(truth, 10), np.tile(probabilities, (10, 1)), patients)
    for name, number in alone.items():
        assert (number.value, number.low, number.high) == pytest.approx(
            (often[name].value, often[name].low, often[name].high)
        )
        assert number.low < number.value < number.high
        assert (number.n, often[name].n) == (40, 400)
    one = classification_numbers(truth, probabilities, ["one"] * 40)
    assert all(number.low is None for number in one.values())


def test_two_predictions_of_the_same_cases_are_paired():
    truth, good = cases(60, 3)
    bad = np.random.default_rng(9).random((60, 3))
    resampling = resample([str(i // 2) for i in range(60)])
    first, second = measures(truth, good, resampling), measures(truth, bad, resampling)
    assert paired(first["AUC"], second["AUC"], 60).verdict == "A beats B"
    assert paired(second["ACC"], first["ACC"], 60).verdict == "B beats A"


def test_what_is_not_defined():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])
    found = classification_numbers(np.array([0, 0, 0]), probabilities, ["a", "b", "c"])
    assert np.isnan(found["AUC"].value)
    assert found["AUC"].low is None
    assert found["balanced accuracy"].value == found["ACC"].value == pytest.approx(2 / 3)
    assert found["macro F1"].value == pytest.approx((0.8 + 0) / 2)
    assert balanced_accuracy(np.array([[3, 1], [0, 0]])) == 0.75


@pytest.mark.parametrize(
    ("truth", "probabilities", "patients", "said"),
    [
        ([0, 2], [[0.5, 0.5]] * 2, "ab", "labels from 0 to 2 for 2 classes"),
        ([0, -1], [[0.5, 0.5]] * 2, "ab", "labels from -1 to 0"),
        ([0, 1], [[0.5], [0.5]], "ab", "k >= 2"),
        ([0, 1, 1], [[0.5, 0.5]] * 2, "ab", "truth 3, prediction 2, patients 2"),
        ([0, 1], [[0.5, 0.5]] * 2, "abc", "truth 2, prediction 2, patients 3"),
        ([0, 1], [[0.5, np.nan], [0, 1]], "ab", "1 cases have scores that are not numbers"),
    ],
)
def test_faults(truth, probabilities, patients, said):
    with pytest.raises(HistillError, match=said):
        classification_numbers(np.array(truth), np.array(probabilities), list(patients))


def test_no_case_at_all():
    with pytest.raises(HistillError, match="n >= 1"):
        classification_numbers(np.zeros(0, int), np.zeros((0, 2)), [])
