from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histill.core.errors import HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Sample
from histill.metrics import segmentation
from histill.metrics.bootstrap import resample
from histill.metrics.summary import ImageScore, compare, exemplars, ranked, score_image, summarise

CLASSES = Classes(("tumour", "stroma", "fat"))


def scored(seed, errors, count=12, mpp=0.5, fat=True):
    """Scores of made-up predictions: the truth with a share of its pixels changed. Fat stands in few images."""
    truths, changes = np.random.default_rng(11), np.random.default_rng(seed)
    scores = []
    for i in range(count):
        truth = np.repeat(np.repeat(truths.integers(0, 2, (4, 4)), 6, 0), 6, 1).astype(np.uint8)
        if i % 5 == 0:
            truth[:8, :8] = 2
        truth[-2:] = IGNORE
        predicted = np.where(truth == IGNORE, 0, truth).astype(np.uint8)
        wrong = changes.random(truth.shape) < errors
        predicted[wrong] = changes.integers(0, 3 if fat else 2, wrong.sum())
        sample = Sample(f"image-{i}", Path("image.png"), patient=f"patient-{i // 2}", mpp=mpp)
        scores.append(score_image(sample, truth, predicted, 3))
    return scores


def test_an_image_score_holds_what_the_measures_say():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 3, (2, 9, 8)).astype(np.uint8)
    score = score_image(Sample("a", Path("a.png"), mpp=0.25), truth, predicted, 3)
    np.testing.assert_array_equal(score.confusion, segmentation.confusion(truth, predicted, 3))
    np.testing.assert_array_equal(score.hd95, segmentation.hd95(truth, predicted, 3))
    assert (score.id, score.patient, score.mpp) == ("a", "a", 0.25)
    assert score.quality == pytest.approx(float(np.mean(segmentation.class_iou(score.confusion))))


def test_an_error_names_the_image():
    with pytest.raises(HistillError, match=r"^image-7, prediction: label 9 is none of the 3 classes"):
        score_image(Sample("image-7", Path("a.png")), np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8), 3)


def test_pooled_and_per_image_measures_equal_the_obvious_ones():
    scores = scored(0, 0.3)
    numbers = summarise(scores, CLASSES, draws=100).numbers
    total = sum(score.confusion for score in scores)
    assert numbers["pooled/mIoU"].value == pytest.approx(float(segmentation.mean_iou(total)))
    assert numbers["pooled/FwIoU"].value == pytest.approx(float(segmentation.frequency_weighted_iou(total)))
    assert numbers["pooled/ACC"].value == pytest.approx(np.trace(total) / total.sum())
    for c, name in enumerate(CLASSES.names):
        assert numbers[f"pooled/IoU/{name}"].value == pytest.approx(segmentation.class_iou(total)[c])
        assert numbers[f"pooled/Dice/{name}"].value == pytest.approx(segmentation.class_dice(total)[c])
        each = [segmentation.class_dice(score.confusion)[c] for score in scores]
        assert numbers[f"per_image/Dice/{name}"].value == pytest.approx(np.nanmean(each))
        assert numbers[f"per_image/Dice/{name}"].n == np.count_nonzero(~np.isnan(each))
        pixels = np.nanmean([score.hd95[c] for score in scores])
        assert numbers[f"per_image/HD95 px/{name}"].value == pytest.approx(pixels)
        assert numbers[f"per_image/HD95 um/{name}"].value == pytest.approx(0.5 * pixels)
    assert numbers["per_image/mIoU"].value == pytest.approx(np.mean([score.quality for score in scores]))
    for name, number in numbers.items():
        if not name.startswith("cases/"):
            assert number.low <= number.value <= number.high, name
            assert name.startswith(("pooled/", "per_image/"))


def test_a_pooled_interval_equals_the_slow_bootstrap():
    scores = scored(1, 0.3)
    weights = resample([score.patient for score in scores], seed=4, draws=200).weights[1:]
    patients = sorted({score.patient for score in scores})
    draws = []
    for row in weights:
        table = np.zeros((3, 3))
        for patient, times in zip(patients, row, strict=True):
            table += times * sum(score.confusion for score in scores if score.patient == patient)
        draws.append(float(segmentation.mean_iou(table)))
    number = summarise(scores, CLASSES, seed=4, draws=200).numbers["pooled/mIoU"]
    np.testing.assert_allclose((number.low, number.high), np.percentile(draws, (2.5, 97.5)))


def test_the_order_of_the_images_changes_nothing():
    scores = scored(2, 0.3)
    assert summarise(scores, CLASSES, draws=50).to_json() == summarise(scores[::-1], CLASSES, draws=50).to_json()


def test_counts_warnings_and_settings_are_in_the_report():
    report = summarise(
        scored(0, 0.2), CLASSES, quarantined=3, warnings=("made up",), settings={"run": "r"}, seed=9, draws=50
    )
    counts = {name: report.numbers[f"cases/{name}"].value for name in ("total", "used", "quarantined", "patients")}
    assert counts == {"total": 15, "used": 12, "quarantined": 3, "patients": 6}
    assert report.warnings[0] == "made up"
    assert any("6 patients" in warning for warning in report.warnings)
    assert any("3 images were put aside" in warning for warning in report.warnings)
    assert report.settings == {"run": "r", "bootstrap": {"unit": "patient", "draws": 50, "seed": 9}}


def test_one_patient_gives_values_and_a_warning_but_no_interval():
    scores = [replace(score, patient="one") for score in scored(0, 0.2)]
    report = summarise(scores, CLASSES)
    assert all(number.low is None and number.defined for number in report.numbers.values())
    assert any("fewer than two patients" in warning for warning in report.warnings)


def test_spacing_is_used_where_it_is_known():
    scores = scored(0, 0.2, mpp=None)
    assert not any("HD95 um" in name for name in summarise(scores, CLASSES, draws=20).numbers)
    scores[1] = replace(scores[1], mpp=2.0)
    number = summarise(scores, CLASSES, draws=20).numbers["per_image/HD95 um/tumour"]
    assert number.n == 1
    assert number.value == pytest.approx(2 * scores[1].hd95[0])


def slow_comparison(a, b, measure, perfect):
    """Per image: the mean over seeds of A - B, the absent one perfect; then the mean over images."""
    each = []
    for i in range(len(a[0])):
        differences = []
        for run_a, run_b in zip(a, b, strict=True):
            one, other = measure(run_a[i]), measure(run_b[i])
            if np.isnan(one) and np.isnan(other):
                continue
            differences.append((perfect if np.isnan(one) else one) - (perfect if np.isnan(other) else other))
        if differences:
            each.append(np.mean(differences))
    return np.mean(each), len(each)


@pytest.mark.parametrize("c", range(3))
def test_paired_differences_pooled_over_seeds_equal_the_obvious_loop(c):
    a = [scored(seed, 0.1, fat=False) for seed in range(3)]
    b = [scored(10 + seed, 0.3) for seed in range(3)]
    assert any(np.isnan(score.hd95[2]) for score in a[0])  # absent in A, seen by B
    report = compare(a, b, CLASSES, draws=50)
    name = CLASSES.names[c]
    for measure, perfect, key in (
        (lambda score: segmentation.class_iou(score.confusion)[c], 1, f"per_image/IoU/{name}"),
        (lambda score: segmentation.class_dice(score.confusion)[c], 1, f"per_image/Dice/{name}"),
        (lambda score: score.hd95[c], 0, f"per_image/HD95 px/{name}"),
        (lambda score: 0.5 * score.hd95[c], 0, f"per_image/HD95 um/{name}"),
    ):
        value, n = slow_comparison(a, b, measure, perfect)
        number = report.numbers[f"difference/{key}"]
        assert (number.value, number.n) == (pytest.approx(value), n), key
    pooled = [sum(score.confusion for run in runs for score in run) for runs in (a, b)]
    difference = segmentation.class_iou(pooled[0])[c] - segmentation.class_iou(pooled[1])[c]
    assert report.numbers[f"difference/pooled/IoU/{name}"].value == pytest.approx(difference)


def test_a_paired_interval_equals_the_slow_bootstrap():
    a, b = [scored(0, 0.1), scored(1, 0.1)], [scored(2, 0.2), scored(3, 0.2)]
    weights = resample([score.patient for score in a[0]], seed=4, draws=100).weights[1:]
    patients = sorted({score.patient for score in a[0]})
    draws = []
    for row in weights:
        of_runs = []
        for runs in (a, b):
            table = np.zeros((3, 3))
            for patient, times in zip(patients, row, strict=True):
                table += times * sum(score.confusion for run in runs for score in run if score.patient == patient)
            of_runs.append(float(segmentation.mean_iou(table)))
        draws.append(of_runs[0] - of_runs[1])
    number = compare(a, b, CLASSES, seed=4, draws=100).numbers["difference/pooled/mIoU"]
    np.testing.assert_allclose((number.low, number.high), np.percentile(draws, (2.5, 97.5)))


def test_the_verdict_is_for_the_better_one_whichever_way_the_measure_goes():
    a, b = [scored(0, 0.1, count=30)], [scored(1, 0.5, count=30)]
    for one, other, names in ((a, b, ("good", "bad")), (b, a, ("bad", "good"))):
        report = compare(one, other, CLASSES, names=names, draws=200)
        rows = {row[0]: row for row in report.tables[0].rows}
        assert rows["pooled/mIoU"][4] == rows["per_image/HD95 px/tumour"][4] == "good beats bad"
        mean_a, mean_b, difference = (cell.value for cell in rows["pooled/mIoU"][1:4])
        assert difference == pytest.approx(mean_a - mean_b)
    same = compare(a, a, CLASSES, draws=50)
    assert {row[4] for row in same.tables[0].rows} == {"not shown"}


def test_the_order_of_images_in_a_run_changes_nothing():
    a, b = scored(0, 0.1), scored(1, 0.3)
    assert compare([a], [b], CLASSES, draws=50).to_json() == compare([a], [b[::-1]], CLASSES, draws=50).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run[:-1], "1 images were not scored in every run: image-11"),
        (lambda run: [*run, replace(run[0], id="other")], "1 images were not scored in every run: other"),
        (lambda run: [replace(run[0], patient="someone else"), *run[1:]], "B, image-0: patient, spacing or true mask"),
        (lambda run: [replace(run[0], mpp=None), *run[1:]], "B, image-0: patient, spacing or true mask"),
        (lambda run: [replace(run[0], confusion=run[0].confusion.T), *run[1:]], "B, image-0: patient, spacing or true"),
        (lambda run: [*run, run[0]], "B, image-0: scored twice"),
        (lambda run: [replace(run[0], hd95=run[0].hd95[:2]), *run[1:]], "B, image-0: scored with 2 classes, not 3"),
        (lambda run: [], "B: no image was scored"),
    ],
)
def test_runs_over_different_images_are_not_compared(change, message):
    with pytest.raises(HistillError, match=message):
        compare([scored(0, 0.1)], [change(scored(1, 0.3))], CLASSES)


def test_as_many_seeds_on_both_sides():
    with pytest.raises(HistillError, match="2 seeds of A and 1 of B"):
        compare([scored(0, 0.1)] * 2, [scored(1, 0.1)], CLASSES)


def of_quality(name, right):
    return ImageScore(name, name, np.array([[right, 100 - right], [0, 0]]), np.zeros(2))


@pytest.mark.parametrize(
    ("images", "count", "best", "median", "worst"),
    [
        (9, 2, "87", "34", "01"),
        (7, 3, "65", "23", "01"),
        (4, 3, "3", "1", "0"),
        (3, 3, "2", "1", "0"),
        (2, 3, "1", "", "0"),
        (1, 3, "0", "", ""),
        (0, 3, "", "", ""),
    ],
)
def test_exemplars_are_best_median_and_worst_and_no_image_comes_twice(images, count, best, median, worst):
    scores = [of_quality(str(i), 10 * i + 5) for i in range(images)]
    chosen = exemplars(scores[::-1], count)
    assert {kind: "".join(score.id for score in of_kind) for kind, of_kind in chosen.items()} == {
        "best": best,
        "median": median,
        "worst": worst,
    }


def test_ranking_leaves_out_images_without_a_measure():
    empty = ImageScore("empty", "p", np.zeros((2, 2), np.int64), np.full(2, np.nan))
    assert [score.id for score in ranked([of_quality("b", 9), empty, of_quality("a", 9), of_quality("c", 3)])] == [
        "c",
        "a",
        "b",
    ]


def test_a_handful_of_patients_shows_nothing():
    a, b = [scored(0, 0.1, count=30)], [scored(1, 0.5, count=30)]
    few = [[replace(score, patient=f"p{i % 4}") for i, score in enumerate(run)] for run in (a[0], b[0])]
    report = compare([few[0]], [few[1]], CLASSES, draws=50)
    assert {row[4] for row in report.tables[0].rows} == {"too few patients"}
