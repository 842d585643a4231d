"""histill import: from the user's CSV to a table, with one report of all that is wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small import SMALL, Histill, change_rows, failing_from, torn

from histill.core.manifest import read_manifest

Fails = Callable[..., str]


@pytest.fixture
def own(table: Path) -> Path:
    """A CSV as others write them: other column names, further columns, no card."""
    table.with_suffix(".yaml").unlink()
    lines = table.read_text().splitlines()
    lines[0] = "slide_id,image_path,label,case_id,split,mask_path,spacing"
    extra = ["scanner,Unnamed: 0", *(f"Aperio,{i}" for i in range(len(lines) - 1))]
    path = table.with_name("my table.csv")
    path.write_text("\n".join(f"{line},{more}" for line, more in zip(lines, extra, strict=True)) + "\n")
    table.unlink()
    return path


def test_a_csv_becomes_a_table_that_train_takes(histill: Histill, own: Path, tmp_path: Path) -> None:
    to = tmp_path / "elsewhere" / "data.csv"
    said = histill("import", "plain", own, "--classes", "stroma, gland,fat", "--to", to)
    assert said.code == 0
    assert "Columns left out: scanner, Unnamed: 0" in said.err
    assert said.out == f"{to}: 14 rows (6 train, 2 val, 6 test); classes stroma, gland, fat\n"
    table = read_manifest(to)
    assert [sample.id for sample in table.samples] == [f"s{i}" for i in range(14)]
    assert table.samples[3].labels == ("stroma", "gland", "fat")
    assert table.samples[3].patient == "p1"
    assert table.samples[3].mpp == 0.5
    assert table.samples[3].mask is not None
    assert table.samples[3].mask.resolve() == own.parent / "3.mask.png"
    assert histill("train", "mlps", "--train", to, "--run", tmp_path / "run", *SMALL).code == 0


def test_classes_that_are_not_given_are_those_of_the_labels(histill: Histill, own: Path, tmp_path: Path) -> None:
    said = histill("import", "plain", own, "--to", tmp_path / "data.csv")
    assert said.code == 0
    assert "the labels name fat, gland, stroma, in this order" in said.err
    assert read_manifest(tmp_path / "data.csv").classes.names == ("fat", "gland", "stroma")


def test_what_the_flags_say_stands_in_the_card(histill: Histill, own: Path, tmp_path: Path) -> None:
    own.write_text(own.read_text().replace(",0.5,", ",,"))
    said = histill(
        *("import", "plain", own, "--to", tmp_path / "data.csv", "--classes", "stroma,gland,fat,rest"),
        *("--background", "rest", "--mask-values", "0=stroma, 1=gland,2=fat,9=ignore", "--mpp", "0.25"),
    )
    assert said.code == 0
    table = read_manifest(tmp_path / "data.csv")
    assert table.card.background == "rest"
    assert table.card.mask_values == {"0": "stroma", "1": "gland", "2": "fat", "9": "ignore"}
    assert {sample.mpp for sample in table.samples} == {0.25}


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (["--classes", "stroma,gland"], 2, "line 4: the label 'fat' is not one of stroma, gland"),
        (["--classes", "fat,fat"], 2, "class named twice: fat"),
        (["--background", "glass"], 2, "the background 'glass' is not one of the classes"),
        (["--mask-values", "255"], 2, "--mask-values: '255' says nothing of a value"),
        (["--mask-values", "300=fat"], 2, "'300' is not a pixel value"),
        (["--mask-values", "0=stroma,1=gland"], 4, "the mask holds the value 2 (known: 0 stroma, 1 gland)"),
        (["--mpp", "0"], 2, "0.0 um/px is not plausible"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], code: int, part: str, fails: Fails, own: Path, tmp_path: Path) -> None:
    if "--mpp" in flags:
        own.write_text(own.read_text().replace(",0.5,", ",,"))
    fails(code, part, "import", "plain", own, "--to", tmp_path / "data.csv", *flags)


def test_bad_files_come_in_one_report(fails: Fails, own: Path, tmp_path: Path) -> None:
    (own.parent / "0.png").write_bytes(b"")
    (own.parent / "9.png").write_bytes((own.parent / "9.png").read_bytes()[:200])
    Image.new("L", (5, 5)).save(own.parent / "3.mask.png")
    parts = ["3 faults", "line 2 (s0)", "line 5 (s3)", "line 11 (s9)", "3.mask.png: the mask is 5 x 5"]
    fails(4, parts, "import", "plain", own, "--to", tmp_path / "data.csv", "--classes", "stroma,gland,fat")


def test_a_table_is_never_written_over_its_source(fails: Fails, own: Path) -> None:
    before = own.read_bytes()
    for to in (own, own.parent / "." / own.name, own.parent / ".." / own.parent.name / own.name):
        fails(2, "write over the table it reads", "import", "plain", own, "--to", to)
    assert own.read_bytes() == before
    assert not own.with_suffix(".yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["plain", "nothing.csv", "--to", "data.csv"], 4, "nothing.csv: there is no readable table"),
        (["plain", "nothing.csv", "--to", "data.tsv"], 2, "data.tsv: the table's name must end in .csv"),
        (["glas", "nothing", "--to", "data.csv"], 4, "nothing"),
        (["glas", "nothing", "--to", "data.csv", "--classes", "a,b"], 2, "known of this data set"),
    ],
)
def test_what_cannot_be_imported(
    arguments: list[str], code: int, part: str, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(code, part, "import", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_table_leave_nothing(fails: Fails, own: Path, tmp_path: Path) -> None:
    own.write_text(own.read_text().replace("s3,", "s2,"))
    fails(2, "line 5: the id 's2' stands already on line 4", "import", "plain", own, "--to", tmp_path / "new/data.csv")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_and_then_room_again(
    fails: Fails, histill: Histill, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["import", "plain", own, "--to", tmp_path / "new" / "data.csv"]
    for nth in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_from(nth, os.fsync))
            fails(7, "the disk is full", *command)
        assert torn(tmp_path) == []
    assert histill(*command).code == 0


def test_the_help_lists_the_sources(histill: Histill) -> None:
    said = histill("import", "--help")
    assert said.code == 0
    for name in ("plain", "glas", "wsss4luad"):
        assert f"  {name} " in said.out


def test_lines_of_a_spreadsheet_survive(histill: Histill, table: Path, tmp_path: Path) -> None:
    change_rows(table, lambda rows: rows[0].update(id="=1+1"))
    table.with_suffix(".yaml").unlink()
    assert histill("import", "plain", table, "--to", tmp_path / "data.csv").code == 0
    assert read_manifest(tmp_path / "data.csv").samples[0].id == "=1+1"
    assert "\n'=1+1," in (tmp_path / "data.csv").read_text().replace("\r", "")


def test_boxes(histill: Histill, fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    shape = '{"label": "%s", "shape_type": "rectangle", "points": [[1, 2], [30, 20]]}'
    shapes = ", ".join(shape % label for label in ("gn", "gs", "vein"))
    (folder / "a.json").write_text(f'{{"imagePath": "a.png", "shapes": [{shapes}]}}')
    to = tmp_path / "data.csv"
    known = ("--rename", "gn=glomerulus,gs=glomerulus,vein=ignore")
    said = histill("import", "labelme", folder, "--to", to, *known, "--split", "test", "--mpp", "0.5")
    assert said.code == 0
    assert said.out == f"{to}: 1 rows (1 test); classes glomerulus\n"
    assert "note: Boxes: 2 glomerulus; 0 images hold none" in said.err
    sample = read_manifest(to).samples[0]
    assert sample.boxes is not None
    assert sample.boxes.resolve() == tmp_path / "data" / "boxes" / "a.json"
    assert sample.mpp == 0.5
    fails(2, "--tile", "import", "labelme", folder, "--to", to, "--tile", "5")
    fails(2, ["vein", "--rename"], "import", "labelme", folder, "--to", to, "--classes", "gn,gs")
    fails(2, "--rename", "import", "glomeruli_bupt", folder, "--to", to, *known)
