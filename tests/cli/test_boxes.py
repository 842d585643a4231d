"""Objects from the command line: train, predict images and a slide, evaluate, compare; what does not fit is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import EVERYWHERE, Histill

from histill.core.boxes import Boxes, read_boxes, write_boxes
from histill.core.labels import Classes

NET = ("encoder", "test_resnet"), ("weights", "none"), ("channels", 64), ("depth", 1), ("levels", "[2, 5]")
TINY = [
    *EVERYWHERE,
    *(text for who in ("teacher", "student") for name, value in NET for text in (f"--{who}.{name}", str(value))),
    *(text for step in ("teach", "learn") for text in (f"--{step}.epochs", "1", f"--{step}.batch_size", "3")),
    *("--ratio", "2", "--tile", "48"),
]
PLACES = [(6, 8, 30, 32), (36, 34, 56, 60)]
CLASSES = Classes(("glomerulus",))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ten images, and a run of each of two plans."""
    from histill.cli.main import main

    folder = tmp_path_factory.mktemp("boxes")
    random = np.random.default_rng(0)
    lines = ["id,path,patient,split,boxes,mpp"]
    for i in range(10):
        image, boxes = np.full((64, 64, 3), 230.0), PLACES[: (2, 1, 0)[i % 3]]
        for x0, y0, x1, y1 in boxes:
            image[y0:y1, x0:x1] = (120, 40, 120)
        noisy = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.png")
        write_boxes(folder / f"{i}.json", Boxes.of(boxes, [0] * len(boxes)), CLASSES)
        split = "train" if i < 5 else "val" if i < 7 else "test"
        lines.append(f"s{i},{i}.png,p{i},{split},{i}.json,1.0")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("classes: [glomerulus]\n")
    for plan in ("hybrid", "low"):
        command = ["train", "mhkd", "--train", folder / "data.csv", "--run", folder / plan, *TINY, "--plan", plan]
        assert main([str(each) for each in command]) == 0
        command = ["predict", folder / plan, folder / "data.csv", "--split", "test", "--to", folder / f"{plan} found"]
        assert main([str(each) for each in [*command, *EVERYWHERE, "--score", "0.06"]]) == 0
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_get_boxes_in_their_own_pixels_and_counts(made: Path) -> None:
    for row in rows(made / "hybrid found"):
        found = read_boxes(made / "hybrid found" / row["boxes"], CLASSES, (64, 64))
        assert row["status"] == "ok"
        shown = 0 if found.scores is None else int((found.scores >= 0.06).sum())
        assert int(row["glomerulus_count"]) == shown
    assert [row["id"] for row in rows(made / "hybrid found")] == ["s7", "s8", "s9"]


def test_a_report_of_two(histill: Histill, made: Path, tmp_path: Path) -> None:
    said = histill(
        *("evaluate", made / "hybrid found", made / "data.csv", "--to", tmp_path, "--against", made / "low found"),
        *("--run", made / "hybrid", "--images", "1"),
    )
    assert said.code == 0, said.err
    assert "3 images (test): AP " in said.out
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert {"objects/AP", "objects/AP50", "objects/AP75", "difference/AP"} <= set(report["numbers"])
    assert "objects/sensitivity at 0.5/image" in report["numbers"]
    titles = [table["title"] for table in report["tables"]]
    assert "Epochs" in titles
    assert "hybrid found against low found" in titles
    assert b"The worst images" in (tmp_path / "report.html").read_bytes()


def test_a_slide(histill: Histill, made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.full((300, 400, 3), 245.0)
    image[20:280, 30:370] = np.array([185.0, 110.0, 165.0]) + rng.normal(0, 12, (260, 340, 3))
    (tmp_path / "slides").mkdir()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "slides/a.png")
    command = ["predict", made / "hybrid", tmp_path / "slides", "--to", tmp_path / "out", "--as", "slides"]
    said = histill(*command, "--mpp", "1", "--tile", "64", *EVERYWHERE, "--score", "0.06")
    assert said.code == 0, said.err
    row = rows(tmp_path / "out")[0]
    assert float(row["mpp"]) == 2
    assert float(row["glomerulus_per_mm2"]) == pytest.approx(int(row["glomerulus_count"]) / 0.0884, rel=0.1)
    assert {each.name for each in (tmp_path / "out").iterdir() if each.is_dir()} >= {"boxes", "objects", "geojson"}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--probabilities"], "objects have boxes"),
        (["--tile", "64"], "these say something of slides"),
        (["--score", "1.5"], "score"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    histill: Histill, made: Path, tmp_path: Path, flags: list[str], what: str
) -> None:
    said = histill("predict", made / "hybrid", made / "data.csv", "--to", tmp_path / "out", *EVERYWHERE, *flags)
    assert said.code == 2
    assert what in said.err
    assert not (tmp_path / "out/predictions.csv").exists()


def test_rows_without_boxes_are_named(histill: Histill, made: Path, tmp_path: Path) -> None:
    table = (made / "data.csv").read_text().replace("9.json", "")
    for file in made.glob("[0-9].*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "data.csv").write_text(table)
    (tmp_path / "data.yaml").write_bytes((made / "data.yaml").read_bytes())
    said = histill("evaluate", made / "hybrid found", tmp_path / "data.csv", "--to", tmp_path / "report")
    assert said.code == 2
    assert "line 11 (s9) has no file of boxes" in said.err
