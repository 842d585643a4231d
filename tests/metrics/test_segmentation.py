import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from histill.core.errors import HistillError
from histill.core.labels import IGNORE
from histill.metrics import segmentation
from histill.metrics.segmentation import (
    accuracy,
    class_dice,
    class_iou,
    confusion,
    frequency_weighted_iou,
    hd95,
    mean_dice,
    mean_iou,
)


def slow_confusion(truth, predicted, k):
    table = np.zeros((k, k), np.int64)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        if t != IGNORE:
            table[t, p] += 1
    return table


@st.composite
def pairs(draw, most=40, side=9):
    k = draw(st.integers(1, most))
    shape = draw(st.tuples(st.integers(0, side), st.integers(0, side)))
    label = st.one_of(st.integers(0, k - 1), st.just(IGNORE))
    truth = draw(arrays.arrays(np.uint8, shape, elements=label))
    predicted = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, k - 1)))
    return truth, predicted, k


@given(pairs())
def test_confusion_counts_each_pair(pair):
    truth, predicted, k = pair
    table = confusion(truth, predicted, k)
    assert table.dtype == np.int64
    assert table.shape == (k, k)
    np.testing.assert_array_equal(table, slow_confusion(truth, predicted, k))


@pytest.mark.parametrize("k", [1, 2, 15, 16, 255])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_confusion_in_chunks_of_any_size(monkeypatch, k, chunk):
    monkeypatch.setattr(segmentation, "CHUNK", chunk)
    random = np.random.default_rng(k)
    truth, predicted = random.integers(0, k, (2, 11, 13)).astype(np.uint8)
    truth[2:4, 5:] = IGNORE
    np.testing.assert_array_equal(confusion(truth, predicted, k), slow_confusion(truth, predicted, k))


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_confusion_of_regions_that_go_on_over_rows_and_chunks(monkeypatch, chunk):
    monkeypatch.setattr(segmentation, "CHUNK", chunk)
    y, x = np.mgrid[:24, :19]
    truth, predicted = ((y + 5) // 7 % 3).astype(np.uint8), ((y + x // 9) // 6 % 3).astype(np.uint8)
    truth[7:9, 4:] = IGNORE
    table = confusion(truth, predicted, 3)
    np.testing.assert_array_equal(table, slow_confusion(truth, predicted, 3))
    assert (np.diagonal(table) > 0).all()


def test_confusion_of_a_view_and_with_another_label_to_ignore():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 5, (2, 20, 30)).astype(np.uint8)
    predicted[predicted == 4] = 0
    expected = slow_confusion(np.where(truth == 4, IGNORE, truth)[::2, ::3], predicted[::2, ::3], 4)
    np.testing.assert_array_equal(confusion(truth[::2, ::3], predicted[::2, ::3], 4, ignore=4), expected)


@pytest.mark.parametrize("measure", [confusion, hd95])
@pytest.mark.parametrize("change", ["type", "rank", "shape", "ignore among classes", "no class"])
def test_masks_that_do_not_fit_are_refused(measure, change):
    truth, predicted, k, ignore = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), 2, IGNORE
    match change:
        case "type":
            predicted = predicted.astype(np.int64)
        case "rank":
            truth = truth[None]
        case "shape":
            predicted = predicted.T
        case "ignore among classes":
            ignore = 1
        case "no class":
            k = 0
    with pytest.raises(HistillError):
        measure(truth, predicted, k, ignore)


@pytest.mark.parametrize("label", [2, 254, IGNORE])
def test_a_prediction_is_a_class_everywhere(label):
    truth, predicted = np.full((3, 4), IGNORE, np.uint8), np.zeros((3, 4), np.uint8)
    predicted[1, 1] = label
    with pytest.raises(HistillError, match=f"prediction: label {label} is none of the 2 classes"):
        confusion(truth, predicted, 2)


@pytest.mark.parametrize("label", [2, 17, 254])
def test_a_truth_is_a_class_or_ignored(label):
    truth, predicted = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)
    truth[0], truth[1, 1] = IGNORE, label
    with pytest.raises(HistillError, match=f"truth: label {label} is none of the 2 classes"):
        confusion(truth, predicted, 2)


def test_measures_of_a_small_table_by_hand():
    # Class 2 stands in the prediction only, class 3 nowhere.
    table = np.array([[6, 2, 0, 0], [1, 10, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(class_iou(table), [6 / 9, 10 / 14, 0, np.nan])
    np.testing.assert_allclose(class_dice(table), [12 / 15, 20 / 24, 0, np.nan])
    assert mean_iou(table) == pytest.approx((6 / 9 + 10 / 14 + 0) / 3)
    assert mean_dice(table) == pytest.approx((12 / 15 + 20 / 24 + 0) / 3)
    assert frequency_weighted_iou(table) == pytest.approx(8 / 20 * 6 / 9 + 12 / 20 * 10 / 14)
    assert accuracy(table) == pytest.approx(16 / 20)


def test_no_pixel_gives_no_measure():
    nothing = np.zeros((3, 3), np.int64)
    for measure in (mean_iou, mean_dice, frequency_weighted_iou, accuracy):
        assert np.isnan(measure(nothing))
    assert np.isnan(class_iou(nothing)).all()
    assert np.isnan(class_dice(nothing)).all()


@pytest.mark.parametrize(
    "measure", [class_iou, class_dice, mean_iou, mean_dice, frequency_weighted_iou, accuracy], ids=lambda m: m.__name__
)
def test_leading_axes_change_nothing(measure):
    tables = np.random.default_rng(1).integers(0, 3, (5, 2, 3, 3))
    together = measure(tables)
    for i in np.ndindex(5, 2):
        np.testing.assert_array_equal(together[i], measure(tables[i]))


def slow_outline(mask):
    padded = np.pad(mask, 1)
    return [
        (y, x)
        for y, x in np.argwhere(mask)
        if not (padded[y, x + 1] and padded[y + 2, x + 1] and padded[y + 1, x] and padded[y + 1, x + 2])
    ]


def slow_hd95(first, second):
    if not first.any() and not second.any():
        return np.nan
    if not first.any() or not second.any():
        return float(np.sqrt(first.shape[0] ** 2 + first.shape[1] ** 2))
    one, other = slow_outline(first), slow_outline(second)
    ways = []
    for here, there in ((one, other), (other, one)):
        nearest = [min(np.hypot(y - v, x - u) for v, u in there) for y, x in here]
        ways.append(np.percentile(nearest, 95))
    return max(ways)


@settings(max_examples=60, deadline=None)
@given(pairs(most=3))
def test_hd95_equals_the_slow_version(pair):
    truth, predicted, k = pair
    expected = [slow_hd95(truth == c, (predicted == c) & (truth != IGNORE)) for c in range(k)]
    np.testing.assert_allclose(hd95(truth, predicted, k), expected, rtol=1e-6)


def test_hd95_of_larger_blobs_equals_the_slow_version():
    y, x = np.mgrid[:48, :64]
    truth = ((y - 20) ** 2 + (x - 22) ** 2 < 150).astype(np.uint8)
    predicted = ((y - 24) ** 2 / 2 + (x - 30) ** 2 < 160).astype(np.uint8)
    truth[:, :3] = IGNORE
    valid = truth != IGNORE
    expected = [slow_hd95(truth == c, (predicted == c) & valid) for c in (0, 1)]
    np.testing.assert_allclose(hd95(truth, predicted, 2), expected, rtol=1e-6)


@pytest.mark.parametrize(("pairs", "dense"), [(1 << 22, 16), (0, 0), (0, 1 << 30)], ids=["pairs", "tree", "map"])
@pytest.mark.parametrize("seed", range(2))
def test_hd95_is_the_same_whichever_way_is_the_fastest(monkeypatch, pairs, dense, seed):
    monkeypatch.setattr(segmentation, "MOST_PAIRS", pairs)
    monkeypatch.setattr(segmentation, "DENSE", dense)
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 3, (2, 4, 5)).astype(np.uint8)
    truth, predicted = (np.kron(each, np.ones((6, 5), np.uint8)) for each in coarse)
    predicted = np.roll(predicted, 3, axis=1)
    truth[:, 9:11] = IGNORE
    expected = [slow_hd95(truth == c, (predicted == c) & (truth != IGNORE)) for c in range(3)]
    np.testing.assert_allclose(hd95(truth, predicted, 3), expected, rtol=1e-6 if dense > 16 else 1e-14)


@pytest.mark.parametrize("side", [2000, 5000])
def test_hd95_of_few_pixels_far_apart_is_not_rounded(side):
    # The squares of such distances fit into float32 where side is the smaller alone.
    truth, predicted = np.zeros((2, side, side), np.uint8)
    truth[0, 0] = truth[1, 3] = predicted[side - 1, side - 2] = predicted[side - 4, side - 1] = 1
    between = np.hypot([[side - 1, side - 4], [side - 2, side - 5]], [[side - 2, side - 1], [side - 5, side - 4]])
    expected = max(np.percentile(between.min(axis), 95) for axis in (0, 1))
    assert hd95(truth, predicted, 2)[1] == pytest.approx(expected, rel=1e-14)


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e4)))
def test_the_percentile_is_numpys(values):
    assert segmentation._percentile_95(values) == pytest.approx(np.percentile(values, 95), rel=1e-12)


def test_hd95_by_hand():
    truth, predicted = np.zeros((2, 30, 40), np.uint8)
    truth[10:15, 10:15], predicted[10:15, 13:18] = 1, 1
    # The squares' facing sides lie three pixels apart; class 2 is nowhere.
    distances = hd95(truth, predicted, 3)
    assert distances[1] == pytest.approx(3)
    assert np.isnan(distances[2])
    # One of the two empty: the diagonal, 3-4-5.
    assert hd95(truth, np.zeros_like(truth), 2)[1] == 50
    assert hd95(np.zeros_like(truth), predicted, 2)[1] == 50
    # Both empty once the ignored pixels are gone.
    truth[truth == 1] = IGNORE
    assert np.isnan(hd95(truth, (truth == IGNORE).astype(np.uint8), 2)[1])


def test_hd95_far_apart_is_precise():
    truth, predicted = np.zeros((2, 3000, 2000), np.uint8)
    truth[0, 0] = predicted[2999, 1999] = 1
    assert hd95(truth, predicted, 2)[1] == pytest.approx(np.hypot(2999, 1999), rel=1e-6)


# --- pixels without a prediction ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 6, 20])
def test_a_pixel_without_a_prediction_is_a_miss_of_its_class_and_a_find_of_none(k: int) -> None:
    rng = np.random.default_rng(k)
    truth = rng.integers(0, k, (37, 53), np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, k, truth.shape, np.uint8))
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    predicted[rng.random(truth.shape) < 0.2] = IGNORE

    table = confusion(truth, predicted, k, gaps=True)

    assert table.shape == (k, k + 1)
    for c in range(k):
        valid = truth != IGNORE
        both = int(((truth == c) & (predicted == c)).sum())
        either = int((valid & ((truth == c) | (predicted == c))).sum())
        assert class_iou(table)[c] == pytest.approx(both / either)
        size = int((truth == c).sum() + (valid & (predicted == c)).sum())
        assert class_dice(table)[c] == pytest.approx(2 * both / size)
    known = truth != IGNORE
    assert accuracy(table) == pytest.approx(((truth == predicted) & known).sum() / known.sum())


def test_without_leave_a_gap_is_an_error() -> None:
    gap = np.full((2, 2), IGNORE, np.uint8)
    with pytest.raises(HistillError, match="label 255 is none"):
        confusion(np.zeros((2, 2), np.uint8), gap, 3)
