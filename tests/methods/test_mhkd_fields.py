"""MHKD with fields that have no boxes: the student learns from what the teacher finds there as well."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
from PIL import Image
from test_mhkd import config
from tiny_boxes import tiny_boxes

from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.storage import safe_name
from histill.data.pairs import PairBatch
from histill.engine.run import Machine
from histill.engine.training import train
from histill.methods.mhkd import STEPS, Mhkd

MACHINE = Machine(accelerator="cpu", threads=1)


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    """Six rows with boxes to learn from and two to choose by; beside it the table of three fields."""
    return tiny_boxes(tmp_path / "table")


def fields_of(table: Manifest) -> dict[str, Any]:
    return {"fields": str(table.path.with_name("fields.csv")), "found": 0.05}


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


TILES = {f"tile {i}" for i in range(6)}
FIELDS = {f"field {i}" for i in range(3)}


def test_the_student_is_shown_them_and_the_teacher_of_step_0_is_not(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen = run(table, folder, **fields_of(table))
    assert seen == {"teacher": TILES, "student": TILES | FIELDS}
    files = {each.name for each in (folder / "fields" / "boxes").iterdir()}
    assert files == {f"{safe_name(field)}.json" for field in FIELDS}
    events = read_journal(folder / "journal.jsonl")
    assert [each["more"] for each in events if each["event"] == "run"] == [3]
    told = (folder / "model" / "README.md").read_text()
    assert "Learnt from 6 images of 6 patients, with boxes." in told
    assert "And from 3 of 3 patients, without boxes." in told


def test_a_run_that_goes_on_ends_in_the_same_bytes(table: Manifest, tmp_path: Path) -> None:
    weights = Path("model") / "model.safetensors"
    run(table, tmp_path / "run", **fields_of(table))
    again = tmp_path / "again"
    copytree(tmp_path / "run", again)
    for name in ("model", "fields", *(f"stages/{step}" for step in STEPS[1:])):
        rmtree(again / name)
    assert run(table, again, **fields_of(table)) == {"teacher": set(), "student": TILES | FIELDS}
    assert (again / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()


def fewer(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def darker(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(read_manifest(path).samples[0].path)


@pytest.mark.parametrize("change", [fewer, darker])
def test_a_run_with_other_fields_is_another(table: Manifest, change: Callable[[Path], None], tmp_path: Path) -> None:
    values = {**fields_of(table), "plan": "start"}
    run(table, tmp_path / "run", **values)
    change(Path(values["fields"]))
    with pytest.raises(HistillError, match="begun with other settings") as caught:
        run(table, tmp_path / "run", **values)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("plan", ["low", "high"])
def test_who_has_no_teacher_learns_without_them(table: Manifest, plan: str, tmp_path: Path) -> None:
    seen = run(table, tmp_path / "run", **fields_of(table), plan=plan)
    assert seen["teacher"] | seen["student"] == TILES
    assert not (tmp_path / "run" / "fields").exists()


@pytest.mark.parametrize(("split", "refused"), [("val", True), ("test", True), ("train", False)])
def test_patients_who_choose_or_score_are_refused(table: Manifest, split: str, refused: bool, tmp_path: Path) -> None:
    last = table.samples[5 if split == "train" else 7]
    samples = (*table.samples[:-1], replace(table.samples[7], split=split, patient="p9"))
    if split == "train":
        samples = (*table.samples[:5], replace(last, patient="p9"), *table.samples[6:])
    held = replace(table, samples=samples)
    if not refused:
        assert run(held, tmp_path / "run", **fields_of(table), plan="start")["student"] == TILES | FIELDS
        return
    with pytest.raises(HistillError, match="1 patients are also chosen or scored by: p9") as caught:
        run(held, tmp_path / "run", **fields_of(table))
    assert caught.value.code == Exit.USAGE
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_with_them_is_told_before_a_run_begins(table: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "far.csv"
    fields = read_manifest(Path(fields_of(table)["fields"]))
    write_manifest(path, [replace(each, mpp=4.0) for each in fields.samples], fields.card)
    for name, what in (("none.csv", r"none\.csv"), ("far.csv", "has 4 um/px, the images with boxes 1")):
        with pytest.raises(HistillError, match=what):
            run(table, tmp_path / "run", fields=str(tmp_path / name))
    assert not (tmp_path / "run").exists()
