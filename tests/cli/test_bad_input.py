"""Tables, images and masks that are wrong: named with their line before anything is begun, by every verb."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import EVERYWHERE, SIZE, SMALL, SMALL_SUPERVISED, Histill, bomb, change_rows

Fails = Callable[..., str]
Verb = Callable[[Path, Path, Path], list[object]]

VERBS: dict[str, Verb] = {
    "train": lambda made, table, to: ["train", "mlps", "--train", table, "--run", to, *SMALL],
    "val": lambda made, table, to: [
        *("train", "mlps", "--train", made / "table/data.csv", "--val", table, "--run", to), *SMALL,
    ],
    "predict": lambda made, table, to: ["predict", made / "run", table, "--to", to, *EVERYWHERE],
    "evaluate": lambda made, table, to: ["evaluate", made / "predicted", table, "--to", to],
}  # fmt: skip


@pytest.fixture(params=VERBS)
def refused(request: pytest.FixtureRequest, fails: Fails, made: Path, table: Path) -> Callable[..., None]:
    """Each verb that reads a table has to refuse it, and to leave nothing."""

    def run(code: int, *parts: str) -> None:
        to = table.parents[1] / "to"
        fails(code, [str(table), *parts], *VERBS[request.param](made, table, to))
        assert not to.exists()

    return run


Refused = Callable[..., None]


def test_a_label_that_is_no_class(refused: Refused, table: Path) -> None:
    change_rows(table, lambda rows: rows[3].update(labels="glnad|stroma"))
    refused(2, "1 fault", "line 5: the label 'glnad' is not one of stroma, gland, fat; did you mean 'gland'?")


def test_an_id_twice(refused: Refused, table: Path) -> None:
    change_rows(table, lambda rows: rows[3].update(id="s1"))
    refused(2, "line 5: the id 's1' stands already on line 3")


def test_a_patient_in_two_splits(refused: Refused, table: Path) -> None:
    change_rows(table, lambda rows: rows[9].update(patient="p0"))
    refused(2, "line 11: patient 'p0' stands in split test, but on line 2 in train")


def test_all_faults_come_at_once(refused: Refused, table: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[0].update(labels="fatt")
        rows[1].update(path="nothing.png")
        rows[2].update(split="tran", patient="alone")
        rows[4].update(mpp="-1")

    change_rows(table, spoil)
    refused(
        2, "4 faults", "line 2: the label 'fatt'", "line 3: path: there is no file nothing.png",
        "line 4: the split 'tran' is not one of train, val, test", "line 6: the spacing '-1'", "Correct these lines",
    )  # fmt: skip


def test_an_unknown_column(refused: Refused, table: Path) -> None:
    table.write_text(table.read_text().replace("patient,", "pateint,", 1))
    refused(2, "line 1: unknown column 'pateint'; did you mean 'patient'?")


@pytest.mark.parametrize("content", [b"", b"id,path\n", b"\xff\xfe\x00", b"id;path\n1;2\n"])
def test_a_table_that_is_none(content: bytes, refused: Refused, table: Path) -> None:
    table.write_bytes(content)
    refused(2, "line 1")


def test_no_card(refused: Refused, table: Path) -> None:
    table.with_suffix(".yaml").unlink()
    refused(2, "no data.yaml beside it", "histill import plain")


def test_no_table(refused: Refused, table: Path) -> None:
    table.unlink()
    refused(4, "there is no such table")


@pytest.mark.parametrize(
    ("card", "part"),
    [
        ("clases: [a]\n", "did you mean 'classes'?"),
        ("classes: [a]\nclasses: [b]\n", "line 2: the key 'classes' stands twice"),
        ("classes: [stroma, gland, fat, fat]\n", "class named twice: fat"),
        ("classes: [stroma, gland, fat]\nbackground: glass\n", "the background 'glass' is not one of the classes"),
    ],
)
def test_a_wrong_card(card: str, part: str, fails: Fails, made: Path, table: Path) -> None:
    table.with_suffix(".yaml").write_text(card)
    for verb in VERBS.values():
        fails(2, part, *verb(made, table, table.parents[1] / "to"))


# --- images and masks, before training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"not an image", "not an image"),
        (b"", "an empty file"),
        (bomb(), "decompression bomb"),
        (None, "cannot be decoded"),
    ],
)
def test_an_image_that_cannot_be_read_stops_training_before_it_begins(
    content: bytes | None, part: str, fails: Fails, made: Path, table: Path, tmp_path: Path
) -> None:
    for i in (1, 6):  # one to learn from, one to choose with
        path = table.parent / f"{i}.png"
        path.write_bytes(path.read_bytes()[:300] if content is None else content)
    for verb in ("train", "val"):
        message = fails(
            4, ["2 faults", "line 3 (s1)", "line 8 (s6)", part], *VERBS[verb](made, table, tmp_path / "run")
        )
        assert "take their rows out of the table" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        (np.zeros((SIZE - 1, SIZE), np.uint8), "the mask is 40 x 39 pixels, its image 40 x 40"),
        (
            np.full((SIZE, SIZE), 3, np.uint8),
            "the mask holds the value 3 (known: 0 stroma, 1 gland, 2 fat, 255 ignore)",
        ),
        (np.zeros((SIZE, SIZE, 3), np.uint8), "a mask of mode RGB, not 8-bit indices"),
    ],
)
@pytest.mark.parametrize("method", ["supervised", "mlps"])
def test_a_wrong_mask_stops_training_before_it_begins(
    method: str, mask: np.ndarray, part: str, fails: Fails, table: Path, tmp_path: Path
) -> None:
    Image.fromarray(mask).save(table.parent / "6.mask.png")
    flags = SMALL_SUPERVISED if method == "supervised" else SMALL
    fails(4, ["line 8 (s6)", "6.mask.png", part], "train", method, "--train", table, "--run", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_a_crop_that_leaves_its_image(fails: Fails, table: Path, tmp_path: Path) -> None:
    text = table.read_text().replace("id,path", "id,x,y,w,h,path", 1)
    table.write_text(
        "\n".join(line.replace(",", ",8,0,32,41,", 1) if line[0] == "s" else line for line in text.split())
    )
    fails(4, ["line 2 (s0)", "leaves the image"], "train", "mlps", "--train", table, "--run", tmp_path / "run", *SMALL)


def test_crops_are_learnt_from_and_segmented(histill: Histill, table: Path, tmp_path: Path) -> None:
    text = table.read_text().replace("id,path", "id,x,y,w,h,path", 1)
    table.write_text(
        "\n".join(line.replace(",", ",8,0,32,40,", 1) if line[0] == "s" else line for line in text.split())
    )
    assert histill("train", "mlps", "--train", table, "--run", tmp_path / "run", *SMALL).code == 0
    assert histill("predict", tmp_path / "run", table, "--to", tmp_path / "out", *EVERYWHERE).code == 0
    assert Image.open(tmp_path / "out" / "masks" / "s0.png").size == (32, 40)
    assert histill("evaluate", tmp_path / "out", table, "--to", tmp_path / "report").code == 0


def test_an_official_split_that_shares_patients_is_said_in_every_report(
    histill: Histill, table: Path, tmp_path: Path
) -> None:
    change_rows(table, lambda rows: rows[9].update(patient="p0"))
    table.with_suffix(".yaml").write_text("classes: [stroma, gland, fat]\nsplit_source: official\n")
    said = histill("train", "mlps", "--train", table, "--run", tmp_path / "run", *SMALL)
    assert said.code == 0
    assert "warning: 1 patients stand in more than one split" in said.err
    assert "stand in more than one split" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert histill("predict", tmp_path / "run", table, "--to", tmp_path / "out", *EVERYWHERE).code == 0
    assert histill("evaluate", tmp_path / "out", table, "--to", tmp_path / "report").code == 0
    for form in ("json", "md", "html"):
        assert "stand in more than one split" in (tmp_path / "report" / f"report.{form}").read_text()
