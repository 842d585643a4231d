"""MHKD with fields that have no boxes: the student learns from what the teacher finds there as well."""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
from test_mhkd import config
from tiny_boxes import tiny_boxes

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, write_manifest
from histill.core.storage import safe_name
from histill.data.pairs import PairBatch
from histill.engine.run import Machine
from histill.engine.training import train
from histill.methods.mhkd import STEPS, Mhkd

MACHINE = Machine(accelerator="cpu", threads=1)


@dataclass
class Tables:
    """Six rows with boxes to learn from and two to choose by; and three fields."""

    boxed: Manifest
    fields: Path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    place = tmp_path_factory.mktemp("fields")
    boxed, other = tiny_boxes(place / "boxed"), tiny_boxes(place / "other")
    fields = [replace(each, id=f"field {i}", boxes=None, labels=()) for i, each in enumerate(other.samples[:3])]
    write_manifest(place / "fields.csv", fields, other.card)
    return Tables(boxed, place / "fields.csv")


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


def test_the_student_is_shown_them_and_the_teacher_is_not(tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen = run(tables.boxed, folder, fields=str(tables.fields), found=0.05)
    assert seen == {"teacher": TILES, "student": TILES | FIELDS}
    files = {each.name for each in (folder / "found-boxes").glob("field*.json")}
    assert files == {f"{safe_name(field)}.json" for field in FIELDS}


def test_a_run_that_goes_on_ends_in_the_same_bytes(tables: Tables, tmp_path: Path) -> None:
    weights, made = Path("model") / "model.safetensors", {"fields": str(tables.fields), "found": 0.05}
    run(tables.boxed, tmp_path / "run", **made)
    again = tmp_path / "again"
    copytree(tmp_path / "run", again)
    for name in ("model", "found-boxes", *(f"stages/{step}" for step in STEPS[1:])):
        rmtree(again / name)
    assert run(tables.boxed, again, **made) == {"teacher": set(), "student": TILES | FIELDS}
    assert (again / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()


def test_a_run_with_other_fields_is_another(tables: Tables, tmp_path: Path) -> None:
    run(tables.boxed, tmp_path / "run", fields=str(tables.fields), plan="start")
    fewer = tables.fields.with_name("fewer.csv")
    text = tables.fields.read_text().splitlines()
    fewer.write_text("\n".join(text[:-1]) + "\n")
    fewer.with_suffix(".yaml").write_bytes(tables.fields.with_suffix(".yaml").read_bytes())
    fewer.replace(tables.fields)
    with pytest.raises(HistillError, match="seen") as caught:
        run(tables.boxed, tmp_path / "run", fields=str(tables.fields), plan="start")
    assert caught.value.code == Exit.USAGE
    tables.fields.write_text("\n".join(text) + "\n")


@pytest.mark.parametrize("plan", ["low", "high"])
def test_who_has_no_teacher_learns_without_them(tables: Tables, plan: str, tmp_path: Path) -> None:
    seen = run(tables.boxed, tmp_path / "run", fields=str(tables.fields), plan=plan)
    assert seen["teacher"] | seen["student"] == TILES
    assert not (tmp_path / "run" / "found-boxes").exists()


def test_a_table_that_is_not_there_is_told_before_anything_is_learnt(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match=r"none\.csv"):
        run(tables.boxed, tmp_path / "run", fields=str(tmp_path / "none.csv"))
    assert not (tmp_path / "run" / "stages").exists()
