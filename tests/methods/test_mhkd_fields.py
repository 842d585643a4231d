"""MHKD where some fields have no boxes: the teacher learns from the others, the student from what it finds too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_mhkd import config
from tiny_boxes import tiny_boxes

from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.manifest import Manifest
from histill.core.storage import safe_name
from histill.data.pairs import PairBatch
from histill.engine.run import Machine
from histill.engine.training import train
from histill.methods.mhkd import STEPS, Mhkd

MACHINE = Machine(accelerator="cpu", threads=1)
BARE = (1, 4)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six fields to learn from, two of them without boxes, and two to choose by, one of them without."""
    made = tiny_boxes(tmp_path_factory.mktemp("fields") / "table")
    samples = [replace(each, boxes=None if i in (*BARE, 7) else each.boxes) for i, each in enumerate(made.samples)]
    return replace(made, samples=tuple(samples))


def run(table: Manifest, folder: Path, **values: Any) -> dict[str, set[str]]:
    """Train; the ids of the fields that the teacher and the student are shown."""
    seen: dict[str, set[str]] = {"teacher": set(), "student": set()}
    teaching, taught = Mhkd.teaching, Mhkd.taught

    def shown_to_teacher(self: Mhkd, teacher: Any, batch: PairBatch) -> Any:
        seen["teacher"] |= set(batch.ids)
        return teaching(self, teacher, batch)

    def shown_to_student(self: Mhkd, school: Any, lessons: Any, batch: PairBatch) -> Any:
        seen["student"] |= set(batch.ids)
        return taught(self, school, lessons, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mhkd, "teaching", shown_to_teacher)
        patch.setattr(Mhkd, "taught", shown_to_student)
        train(Mhkd, table, None, folder=folder, config=config(**values), seed=0, machine=MACHINE)
    return seen


def ids(*numbers: int) -> set[str]:
    return {f"tile {i}" for i in numbers}


def test_the_student_is_shown_them_and_the_teacher_is_not(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen = run(table, folder, unlabelled=0.05)
    assert seen == {"teacher": ids(0, 2, 3, 5), "student": ids(*range(6))}
    files = {each.name for each in (folder / "found-boxes").glob("tile*.json")}
    assert files == {f"{safe_name(f'tile {i}')}.json" for i in BARE}
    selecting = [each["samples"] for each in read_journal(folder / "journal.jsonl") if each["event"] == "selecting"]
    assert selecting == [1, 1], "a validation field without boxes says nothing of an epoch"
    assert "with boxes; 2 of them without" in (folder / "model" / "README.md").read_text()


def test_a_run_that_goes_on_ends_in_the_same_bytes(table: Manifest, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    run(table, folder, unlabelled=0.05)
    weights = Path("model") / "model.safetensors"
    expected = (folder / weights).read_bytes()
    run(table, other, unlabelled=0.05)
    for name in ("model", "found-boxes"):
        (other / name / "record.json").unlink()
    for name in STEPS[1:]:
        (other / "stages" / name / "record.json").unlink()
    assert run(table, other, unlabelled=0.05)["teacher"] == set()
    assert (other / weights).read_bytes() == expected


@pytest.mark.parametrize("plan", ["low", "high"])
def test_who_has_no_teacher_learns_from_the_others_alone(table: Manifest, plan: str, tmp_path: Path) -> None:
    seen = run(table, tmp_path / "run", unlabelled=0.05, plan=plan)
    assert seen["teacher"] | seen["student"] == ids(0, 2, 3, 5)
    assert not (tmp_path / "run" / "found-boxes").exists()


def test_they_are_refused_where_they_were_not_asked_for(table: Manifest, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match=r"line 3 \(tile 1\) has no file of boxes") as caught:
        run(table, tmp_path / "run")
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("split", ["train", "val"])
def test_some_must_have_boxes(table: Manifest, split: str, tmp_path: Path) -> None:
    samples = tuple(replace(each, boxes=None) if each.split == split else each for each in table.samples)
    with pytest.raises(HistillError, match="has a file of boxes") as caught:
        run(replace(table, samples=samples), tmp_path / "run", unlabelled=0.5)
    assert caught.value.code == Exit.USAGE
