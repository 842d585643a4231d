"""What is compared: every run can begin, and the lesion tables say what they say they do."""

from pathlib import Path

import methods_jobs
import methods_lesions
import numpy as np
import pytest
from methods_jobs import VARIANTS, data_sets, flags_of, jobs, recipe_of

import methods
from histill.cli.train import settings_of
from histill.core.config import read_yaml, resolve
from histill.core.labels import Classes
from histill.core.report import Number, Report, Table
from histill.methods import find
from histill.metrics.summary import ImageScore

CLASSES = Classes(("tumour", "normal"), background="normal")


@pytest.fixture
def all_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[methods_jobs.DataSet]:
    monkeypatch.setattr(methods_jobs, "DATA", tmp_path)
    return data_sets()


def test_every_run_has_settings_that_its_method_knows(all_sets: list[methods_jobs.DataSet]) -> None:
    seen = set()
    for job in jobs(all_sets):
        flags = tuple(flags_of(job))
        if (job.method, flags) not in seen:
            seen.add((job.method, flags))
            layers = [(str(recipe_of(job)), read_yaml(recipe_of(job))), ("flags", settings_of(list(flags)))]
            resolve(find(job.method).Config, *layers)


def test_the_order_of_runs(all_sets: list[methods_jobs.DataSet]) -> None:
    listed = jobs(all_sets)
    assert len({job.name for job in listed}) == len(listed)
    once = [variant for variant in VARIANTS if not variant.always]
    assert {job.variant for job in listed[: -len(once)]} == {"", "teacher alone"}
    lesions = [job.name for job in listed if job.data.task == "lesions"]
    assert lesions[:5] == [
        f"lesions-{name}-0" for name in ("ikd_mil", "ikd_mil-teacher-alone", "glmkd", "cam", "supervised")
    ]
    assert lesions[15] == "glas-lesions-ikd_mil-0"
    assert [job.variant for job in listed[-len(once) :]] == [variant.name for variant in once]


def test_what_a_variant_is_held_against_is_run() -> None:
    names = {(variant.method, variant.name) for variant in VARIANTS}
    assert all((variant.method, variant.against) in names for variant in VARIANTS if variant.against)


def score(name: str, confusion: list[list[int]], hd95: float = np.nan, patient: str = "") -> ImageScore:
    return ImageScore(name, patient or name, np.array(confusion), np.array([hd95, 1.0]), mpp=0.5)


def test_measures_of_the_lesion_are_those_of_their_images() -> None:
    """Pooled over all, per image over those that show it, false positives over those that do not."""
    a = [
        score("with", [[30, 10], [10, 50]], hd95=8.0),
        score("missed", [[0, 20], [0, 80]], hd95=99.0),
        score("without", [[0, 0], [5, 95]], hd95=99.0),
        score("none found", [[0, 0], [0, 300]]),
    ]
    found = methods_lesions.paired([a], [a], CLASSES, ("a", "a"))
    values = {name: row[0] for name, row in found.items()}
    assert all(isinstance(number, Number) for number in values.values())
    expected = {
        "pooled/Dice": (60 / (60 + 30 + 15), 4),
        "pooled/IoU": (30 / (30 + 30 + 15), 4),
        "per_image/Dice": ((60 / 80 + 0) / 2, 2),
        "per_image/IoU": ((30 / 50 + 0) / 2, 2),
        "per_image/HD95 um": (4.0, 1),  # where nothing was found there is no distance
        "pooled/false positives": (5 / 400, 2),
    }
    assert list(found) == list(expected)
    for name, (value, n) in expected.items():
        assert values[name].value == pytest.approx(value)
        assert (values[name].n, found[name][-1]) == (n, n)


def test_a_distance_counts_only_where_both_found_something() -> None:
    near = [score(f"{i}", [[10, 10], [10, 70]], hd95=2.0) for i in range(6)]
    far = [score(f"{i}", [[10, 10], [10, 70]], hd95=6.0) for i in range(6)]
    far[5] = score("5", [[0, 20], [0, 80]], hd95=141.0)
    row = methods_lesions.paired([near, near], [far, near], CLASSES, ("near", "far"))["per_image/HD95 um"]
    assert row[0].value == pytest.approx(1.0)
    # The sixth image: of the two seeds, only that in which both found it.
    assert row[1].value == pytest.approx((5 * 2.0 + 1.0) / 6)
    assert row[4] == 6


def test_fewer_false_positives_win() -> None:
    clean = [score(f"{i}", [[0, 0], [0, 100]]) for i in range(6)]
    spotted = [score(f"{i}", [[0, 0], [10 + i, 90 - i]]) for i in range(6)]
    a, b, difference, verdict, n = methods_lesions.paired([clean], [spotted], CLASSES, ("clean", "spotted"))[
        "pooled/false positives"
    ]
    assert (a.value, b.value, difference.value) == (0, pytest.approx(0.125), pytest.approx(-0.125))
    assert difference.low < difference.value < difference.high < 0
    assert (verdict, n) == ("clean beats spotted", 6)


def test_a_set_without_negatives_has_no_false_positives() -> None:
    runs = [[score(f"{i}", [[10, 10], [10, 70]], hd95=2.0) for i in range(2)]]
    assert "pooled/false positives" not in methods_lesions.paired(runs, runs, CLASSES, ("a", "a"))


def test_the_overall_table_has_a_verdict_where_there_is_one(all_sets: list[methods_jobs.DataSet]) -> None:
    sets = {data.name: data for data in all_sets}
    against = Table("ikd_mil against cam", tuple("abcdef"), (("pooled/Dice", 1, 2, 3, "ikd_mil beats cam", 4),))
    reports = [
        (sets["lesions"], Report("", {"pooled/Dice/ikd_mil": Number(0.8, 600)}, (against,))),
        (sets["glas"], Report("", {"pooled/mIoU/cam": Number(0.5, 56)})),
    ]
    rows = {row[0]: row[1:] for row in methods.overall(reports).tables[0].rows}
    assert rows["ikd_mil"] == (Number(0.8, 600), None)
    assert rows["cam"] == (None, Number(0.5, 56))
    assert rows["ikd_mil against cam"] == ("ikd_mil beats cam", None)
    assert "mlps against cam" not in rows
