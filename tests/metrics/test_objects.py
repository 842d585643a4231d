"""Reports of found boxes: the numbers of `metrics.detection`, thirds by size, FROC per unit, and what beats what."""

import numpy as np
import pytest

from histill.core.boxes import Boxes
from histill.core.labels import Classes
from histill.core.report import Report
from histill.metrics.bootstrap import NOT_SHOWN, resample
from histill.metrics.detection import at_score, detection_numbers, match, sensitivity_at
from histill.metrics.objects import Case, quality, report_objects, size_ranges
from histill.metrics.segmentation import mean_defined

TWO = Classes(("glomerulus", "tubule"))
ONE = Classes(("glomerulus",))


def cases(classes: Classes = TWO, *, worse: float = 0.0) -> list[Case]:
    """Twelve images of six patients, found with jitter and false boxes."""
    random, made = np.random.default_rng(0), []
    for i in range(12):
        n = int(random.integers(0, 4))
        corner, side = random.integers(0, 60, (n, 2)), random.integers(8, 40, (n, 2))
        truth = np.concatenate([corner, corner + side], 1)
        kinds = random.integers(0, len(classes), n)
        jitter = random.normal(0, 2 + worse, (n, 4))
        found = np.concatenate([truth + jitter, [(70, 70, 90, 95)]])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        scores = random.random(n + 1)
        made.append(
            Case(
                f"i{i}",
                f"p{i // 2}",
                Boxes.of(truth.tolist(), kinds.tolist()),
                Boxes.of(found.tolist(), [*kinds.tolist(), 0], scores.tolist()),
                extent=0.5,
            )
        )
    return made


@pytest.mark.parametrize("classes", [ONE, TWO])
def test_numbers_are_those_of_detection(classes: Classes) -> None:
    made = cases(classes)
    report = report_objects(made, classes, title="t", score=0.3, most=100)
    found = [match(case.truth, case.found, len(classes)) for case in made]
    patients = [case.patient for case in made]
    expected = detection_numbers(found, patients, classes)
    for name in ("AP", "AP50", "AP75", "AP/glomerulus"):
        assert report.numbers[f"objects/{name}"] == expected[name]
    resampling = resample(patients)
    froc = mean_defined(sensitivity_at(found, resampling, [2], extents=[0.5] * 12))[:, 0]
    assert report.numbers["objects/sensitivity at 2/image"].value == pytest.approx(froc[0])
    for name, value in at_score(found, resampling, 0.3).items():
        assert report.numbers[f"objects/{name}"].value == pytest.approx(float(mean_defined(value)[0]))
    assert report.numbers["cases/true boxes"].value == sum(len(case.truth) for case in made)
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


def test_every_true_box_is_of_one_third() -> None:
    truths = [case.truth for case in cases()]
    ranges = size_ranges(truths)
    assert list(ranges) == ["all", "small", "medium", "large"]
    areas = np.concatenate([boxes.areas for boxes in truths]).astype(np.float64)
    within = [((areas >= low) & (areas <= high)).sum() for low, high in list(ranges.values())[1:]]
    assert sum(within) == len(areas)
    assert max(within) - min(within) <= 2


@pytest.mark.parametrize("truths", [[], [Boxes.of([], [])], [Boxes.of([(0, 0, 4, 4), (9, 9, 13, 13)], [0, 0])]])
def test_boxes_of_one_size_or_none_have_no_thirds(truths: list[Boxes]) -> None:
    assert list(size_ranges(truths)) == ["all"]


def test_the_better_of_two_is_told() -> None:
    report = report_objects(cases(), TWO, title="t", score=0.3, against=("good", "bad", cases(worse=12)))
    assert report.numbers["difference/AP"].low is not None
    assert report.numbers["difference/AP"].low > 0
    table = next(each for each in report.tables if each.title == "good against bad")
    assert ("AP", "good beats bad") in [(row[0], row[-1]) for row in table.rows]
    itself = report_objects(cases(), TWO, title="t", score=0.3, against=("one", "other", cases()))
    assert {row[-1] for row in itself.tables[-1].rows} == {NOT_SHOWN}


def test_what_a_reader_must_know_is_a_warning() -> None:
    made = [Case("a", "p", Boxes.of([], []), Boxes.of([], [], []))]
    report = report_objects(made, ONE, title="t", score=0.3, quarantined=2, warnings=("synthetic",))
    assert [warning.split()[0] for warning in report.warnings] == ["synthetic", "2", "There"]
    assert not report.numbers["objects/AP"].defined


def test_quality_is_f1_and_nothing_where_nothing_is_is_right() -> None:
    truth = Boxes.of([(0, 0, 10, 10), (20, 20, 30, 30)], [0, 0])
    found = Boxes.of([(0, 0, 10, 10), (50, 50, 60, 60), (20, 20, 30, 30)], [0, 0, 0], [0.9, 0.8, 0.1])
    assert quality(Case("a", "p", truth, found), ONE, 0.3) == pytest.approx(0.5)
    nothing = Boxes.of([], [], [])
    assert quality(Case("a", "p", Boxes.of([], []), nothing), ONE, 0.3) == 1
    assert quality(Case("a", "p", truth, nothing), ONE, 0.3) == 0
