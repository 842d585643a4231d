import numpy as np
import pytest

from histill.core.errors import Exit, HistillError
from histill.metrics.classification import score_labels


def slow_auc(truth, scores):
    pairs = [(p > q) + 0.5 * (p == q) for p in scores[truth == 1] for q in scores[truth == 0]]
    return np.mean(pairs)


def slow_average_precision(truth, scores):
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall, precision = truth[chosen].sum() / truth.sum(), truth[chosen].mean()
        total, before = total + (recall - before) * precision, recall
    return total


def test_each_column_equals_the_slow_version():
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (40, 3))
    scores = np.round(random.random((40, 3)), 1)  # with ties
    result = score_labels(truth, scores)
    for c in range(3):
        t, s = truth[:, c], scores[:, c]
        hit, said = ((s >= 0.5) & (t == 1)).sum(), (s >= 0.5).sum()
        assert result.auc[c] == pytest.approx(slow_auc(t, s))
        assert result.average_precision[c] == pytest.approx(slow_average_precision(t, s))
        specificity = ((s < 0.5) & (t == 0)).sum() / (t == 0).sum()
        assert result.balanced_accuracy[c] == pytest.approx((hit / t.sum() + specificity) / 2)
        assert result.f1[c] == pytest.approx(2 * hit / (said + t.sum()))
    assert result.means()["AUC"] == pytest.approx(result.auc.mean())
    np.testing.assert_array_equal(result.positives, truth.sum(0))


def test_columns_of_one_kind_are_left_out():
    truth = np.array([[1, 0, 0, 1], [1, 0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.8, 0.7], [0.8, 0.2, 0.1, 0.2]])
    result = score_labels(truth, scores)
    for values in (result.auc, result.average_precision, result.balanced_accuracy):
        np.testing.assert_array_equal(values, [np.nan, np.nan, np.nan, 1])
    np.testing.assert_array_equal(result.f1, [1, np.nan, 0, 1])
    assert result.means() == pytest.approx(
        {"AUC": 1, "average precision": 1, "balanced accuracy": 1, "macro F1": 2 / 3}
    )


def test_the_threshold_is_reached_from_above():
    truth, scores = np.array([[1], [0]]), np.array([[0.5], [0.499]])
    assert score_labels(truth, scores).f1[0] == 1
    assert score_labels(truth, scores, threshold=0.499).f1[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("truth", "scores", "code"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), Exit.INPUT),
        (np.zeros(3), np.zeros(3), Exit.INPUT),
        (np.zeros((0, 2)), np.zeros((0, 2)), Exit.INPUT),
        (np.full((2, 2), 2), np.zeros((2, 2)), Exit.INPUT),
        (np.zeros((2, 2)), np.array([[0, np.nan], [0, 0]]), Exit.NUMBERS),
    ],
)
def test_what_does_not_fit_is_refused(truth, scores, code):
    with pytest.raises(HistillError) as caught:
        score_labels(truth, scores)
    assert caught.value.code == code
