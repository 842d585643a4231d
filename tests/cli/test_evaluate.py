"""histill evaluate: the numbers, the pages, and what it refuses."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import CLASSES, EVERYWHERE, SIZE, Histill, change_rows, failing_from, torn, tree

Fails = Callable[..., str]


def begin(predictions: Path, table: Path, to: Path, *more: object) -> list[object]:
    return ["evaluate", predictions, table, "--to", to, "--split", "all", *more]


def numbers(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_bytes())["numbers"])


@pytest.fixture
def varied(predicted: Path, made: Path) -> Path:
    """Predictions that hold every class, right and wrong: the truth, with the classes of a corner exchanged."""
    from histill.core.record import OK, Record, describe, read_record

    for i in range(14):
        mask = np.array(Image.open(made / "table" / f"{i}.mask.png"))
        mask[: 5 + i, : 2 * i + 1] = (mask[: 5 + i, : 2 * i + 1] + 1) % 3
        Image.fromarray(mask).save(predicted / "masks" / f"s{i}.png")
        record = read_record(predicted / "records" / f"s{i}.json")
        assert record is not None
        Record(OK, record.settings, record.source, describe(predicted, [f"masks/s{i}.png"]), record.details).write(
            predicted / "records" / f"s{i}.json"
        )
    return predicted


def slow_numbers(table: Path, predictions: Path, ids: range) -> dict[str, float]:
    """The same figures, pixel by pixel."""
    tables = []
    for i in ids:
        counts = np.zeros((3, 3), int)
        truth = np.array(Image.open(table.parent / f"{i}.mask.png"))
        found = np.array(Image.open(predictions / "masks" / f"s{i}.png"))
        for t, p in zip(truth.ravel(), found.ravel(), strict=True):
            if t != 255:
                counts[t, p] += 1
        tables.append(counts)

    def of_class(counts: np.ndarray, c: int) -> tuple[float | None, float | None]:
        agreed, true, said = counts[c, c], counts[c].sum(), counts[:, c].sum()
        return (agreed / (true + said - agreed), 2 * agreed / (true + said)) if true + said else (None, None)

    whole = sum(tables)
    found = {"pooled/ACC": np.trace(whole) / whole.sum()}
    ious = []
    for c, name in enumerate(CLASSES):
        found[f"pooled/IoU/{name}"], found[f"pooled/Dice/{name}"] = of_class(whole, c)
        ious.append(found[f"pooled/IoU/{name}"])
    found["pooled/mIoU"] = np.mean(ious)
    found["pooled/FwIoU"] = sum(whole[c].sum() / whole.sum() * ious[c] for c in range(3))
    for position, measure in enumerate(("IoU", "Dice")):
        values = [[of_class(counts, c)[position] for c in range(3)] for counts in tables]
        found[f"per_image/m{measure}"] = np.mean([np.mean([v for v in row if v is not None]) for row in values])
        for c, name in enumerate(CLASSES):
            found[f"per_image/{measure}/{name}"] = np.mean([row[c] for row in values if row[c] is not None])
    return {name: float(value) for name, value in found.items()}


def test_the_numbers_are_those_of_counting_by_hand(histill: Histill, table: Path, varied: Path, tmp_path: Path) -> None:
    mask = np.array(Image.open(table.parent / "2.mask.png"))
    mask[10:20] = 255
    Image.fromarray(mask).save(table.parent / "2.mask.png")
    said = histill(*begin(varied, table, tmp_path / "report"))
    assert said.code == 0
    found = numbers(tmp_path / "report")
    expected = slow_numbers(table, varied, range(14))
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-5), name
    assert (found["cases/total"]["value"], found["cases/patients"]["value"]) == (14, 7)
    assert found["cases/quarantined"]["value"] == 0
    for name in ("pooled/mIoU", "per_image/mDice"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    for name in CLASSES:
        pixels, length = found[f"per_image/HD95 px/{name}"], found[f"per_image/HD95 um/{name}"]
        assert length["value"] == pytest.approx(pixels["value"] / 2, rel=1e-5)
    assert str(round(found["pooled/mIoU"]["value"], 3)) in said.out


def test_perfect_predictions_are_perfect(histill: Histill, made: Path, varied: Path, tmp_path: Path) -> None:
    for i in range(14):
        shutil.copy(varied / "masks" / f"s{i}.png", tmp_path / f"{i}.mask.png")
        shutil.copy(made / "table" / f"{i}.png", tmp_path)
    for name in ("data.csv", "data.yaml"):
        shutil.copy(made / "table" / name, tmp_path)
    assert histill(*begin(varied, tmp_path / "data.csv", tmp_path / "report")).code == 0
    found = numbers(tmp_path / "report")
    for name in ("pooled/mIoU", "pooled/ACC", "per_image/mDice"):
        assert found[name]["value"] == 1
    assert found["per_image/HD95 px/fat"]["value"] == 0


def test_a_report_in_three_forms(histill: Histill, made: Path, tmp_path: Path) -> None:
    said = histill(*begin(made / "predicted", made / "table/data.csv", tmp_path / "report", "--run", made / "run"))
    assert said.code == 0
    assert f"report: {tmp_path / 'report' / 'report.html'}" in said.out
    assert sorted(tree(tmp_path / "report")) == ["report.html", "report.json", "report.md"]
    document = json.loads((tmp_path / "report" / "report.json").read_bytes())
    assert set(document) == {"schema", "title", "warnings", "numbers", "tables", "settings"}
    assert document["title"] == "mlps on data"
    assert document["settings"]["method"] == "mlps"
    assert "Pseudo-masks" in [each["title"] for each in document["tables"]]
    markdown = (tmp_path / "report" / "report.md").read_text()
    for name in ("mIoU", "FwIoU", "HD95", *CLASSES):
        assert name in markdown
    before = tree(tmp_path / "report")
    histill(*begin(made / "predicted", made / "table/data.csv", tmp_path / "report", "--run", made / "run"))
    assert tree(tmp_path / "report") == before


def test_the_page_runs_nothing_and_asks_nobody(histill: Histill, made: Path, tmp_path: Path) -> None:
    assert histill(*begin(made / "predicted", made / "table/data.csv", tmp_path, "--images", "2")).code == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") >= 3
    assert not re.search(r"<(script|iframe|object|embed|link|form|base)\b", page)
    assert not re.search(r"<[^>]+\son\w+\s*=", page)
    assert not re.search(r"""(?:src|href|srcset|action)\s*=\s*["']?(?!data:|#|["'])\w""", page)
    assert not re.search(r"https?://|url\((?!.?data:)|@import", page)
    assert "Content-Security-Policy" in page
    assert histill(*begin(made / "predicted", made / "table/data.csv", tmp_path, "--images", "0")).code == 0
    assert (tmp_path / "report.html").stat().st_size < len(page)


def test_names_from_the_table_stay_text_on_the_page(histill: Histill, made: Path, table: Path, tmp_path: Path) -> None:
    evil = "<img src=http://evil.example onerror=alert(1)>"
    change_rows(table, lambda rows: [row.update(id=f"{evil}{i}", patient=f"{evil}{i}") for i, row in enumerate(rows)])
    assert histill("predict", made / "run", table, "--to", tmp_path / "out", *EVERYWHERE).code == 0
    assert histill(*begin(tmp_path / "out", table, tmp_path / "report")).code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;img src=http://evil.example" in page
    assert "<img src=http" not in page


def test_against_itself_nothing_is_shown(histill: Histill, made: Path, varied: Path, tmp_path: Path) -> None:
    table = made / "table/data.csv"
    assert histill(*begin(varied, table, tmp_path / "report", "--against", varied)).code == 0
    document = json.loads((tmp_path / "report" / "report.json").read_bytes())
    rows = next(each["rows"] for each in document["tables"] if each["title"] == "Paired differences")
    assert rows
    assert {row[4] for row in rows} == {"not shown"}
    assert document["numbers"]["difference/pooled/mIoU"]["value"] == 0


def test_against_another_the_better_one_wins(histill: Histill, made: Path, varied: Path, tmp_path: Path) -> None:
    table = made / "table/data.csv"
    assert histill(*begin(varied, table, tmp_path / "report", "--against", made / "predicted")).code == 0
    found = numbers(tmp_path / "report")
    alone = tmp_path / "alone"
    assert histill(*begin(made / "predicted", table, alone)).code == 0
    difference = found["difference/pooled/mIoU"]["value"]
    assert difference == pytest.approx(found["pooled/mIoU"]["value"] - numbers(alone)["pooled/mIoU"]["value"], abs=1e-5)
    assert found["difference/pooled/mIoU"]["low"] > 0


def test_only_rows_that_were_predicted_are_scored(histill: Histill, made: Path, tmp_path: Path) -> None:
    table = made / "table/data.csv"
    assert histill("predict", made / "run", table, "--to", tmp_path / "out", "--split", "test", *EVERYWHERE).code == 0
    assert histill(*begin(tmp_path / "out", table, tmp_path / "report")).code == 0
    assert numbers(tmp_path / "report")["cases/total"]["value"] == 6


def test_images_put_aside_are_counted(histill: Histill, made: Path, table: Path, tmp_path: Path) -> None:
    (table.parent / "4.png").write_bytes(b"")
    assert histill("predict", made / "run", table, "--to", tmp_path / "out", *EVERYWHERE).code == 3
    assert histill(*begin(tmp_path / "out", table, tmp_path / "report")).code == 3
    found = numbers(tmp_path / "report")
    assert [found[f"cases/{name}"]["value"] for name in ("total", "used", "quarantined")] == [14, 13, 1]
    assert "1 images were put aside" in (tmp_path / "report" / "report.md").read_text()


# --- what it refuses --------------------------------------------------------------------------------------------------


def refused(fails: Fails, code: int, parts: str | list[str], predictions: Path, table: Path, *more: object) -> None:
    to = table.parent / "report"
    fails(code, parts, *begin(predictions, table, to, *more))
    assert not to.exists()


def test_a_folder_without_predictions(fails: Fails, made: Path, table: Path) -> None:
    for folder in (made / "run", made / "nothing", made / "table/data.csv"):
        refused(fails, 4, [str(folder), "holds no predictions", "histill predict"], folder, table)
    refused(fails, 4, "holds no predictions", made / "predicted", table, "--against", made / "run")


def test_a_table_without_masks(fails: Fails, made: Path, table: Path) -> None:
    change_rows(table, lambda rows: [rows[i].update(mask="") for i in (0, 5)])
    refused(fails, 2, ["2 faults", "line 2 (s0) has no mask", "line 7 (s5) has no mask"], made / "predicted", table)


def test_other_classes(fails: Fails, made: Path, table: Path) -> None:
    table.with_suffix(".yaml").write_text("classes: [gland, stroma, fat]\n")
    parts = ["the predictions know stroma, gland, fat; the table gland, stroma, fat"]
    refused(fails, 2, parts, made / "predicted", table)


def test_a_table_of_other_images(fails: Fails, made: Path, table: Path) -> None:
    change_rows(table, lambda rows: [row.update(id=f"other {row['id']}") for row in rows])
    refused(fails, 2, "none of the table's rows was predicted", made / "predicted", table)


def test_a_true_mask_of_another_size(fails: Fails, made: Path, table: Path) -> None:
    Image.fromarray(np.zeros((SIZE, SIZE - 1), np.uint8)).save(table.parent / "3.mask.png")
    refused(fails, 4, ["3.mask.png", "39 x 40 pixels, its image 40 x 40"], made / "predicted", table)


def test_a_true_mask_with_unknown_values(fails: Fails, made: Path, table: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 7, np.uint8)).save(table.parent / "3.mask.png")
    refused(fails, 4, ["3.mask.png", "holds the value 7", "mask_values"], made / "predicted", table)


def test_a_prediction_of_another_size(fails: Fails, made: Path, table: Path) -> None:
    for name, shape in (("3.png", (30, 30, 3)), ("3.mask.png", (30, 30))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(table.parent / name)
    refused(fails, 4, "s3", made / "predicted", table)


@pytest.mark.parametrize("way", ["changed", "missing"])
def test_a_predicted_mask_that_is_not_what_was_written(way: str, fails: Fails, table: Path, predicted: Path) -> None:
    mask = predicted / "masks" / "s3.png"
    if way == "missing":
        mask.unlink()
    else:
        mask.write_bytes(mask.read_bytes()[:-1] + b"?")
    refused(
        fails,
        4,
        ["s3", f"masks/s3.png {'is missing' if way == 'missing' else 'has changed'}", "again"],
        predicted,
        table,
    )


def test_a_full_disk_and_then_room_again(
    fails: Fails, histill: Histill, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin(made / "predicted", made / "table/data.csv", tmp_path / "report")
    for nth in (1, 2, 5):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_from(nth, os.fsync))
            fails(7, [str(tmp_path / "report"), "the disk is full"], *command)
        assert torn(tmp_path) == []
    assert histill(*command).code == 0
    histill(*begin(made / "predicted", made / "table/data.csv", tmp_path / "clean"))
    assert tree(tmp_path / "report") == tree(tmp_path / "clean")


def test_a_place_that_cannot_be_written(
    fails: Fails, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    fails(7, "a file stands", *begin(made / "predicted", made / "table/data.csv", tmp_path / "file"))
    monkeypatch.setattr(Path, "mkdir", failing_from(1, Path.mkdir, errno.EROFS))
    fails(7, "read-only", *begin(made / "predicted", made / "table/data.csv", tmp_path / "report"))


def test_test_rows_are_scored_where_there_are_any_and_training_rows_are_told(
    histill: Histill, made: Path, tmp_path: Path
) -> None:
    table = made / "table" / "data.csv"
    call = ["evaluate", made / "predicted", table, "--to", tmp_path / "auto"]
    assert "6 images (test)" in histill(*call).out
    assert "training images" not in (tmp_path / "auto" / "report.md").read_text()
    histill("evaluate", made / "predicted", table, "--to", tmp_path / "all", "--split", "all")
    assert "6 of the 14 images scored are training images" in (tmp_path / "all" / "report.md").read_text()
    settings = json.loads((tmp_path / "auto" / "report.json").read_text())["settings"]
    assert settings["split"] == "test"
    assert settings["epoch chosen by"] == "masks"


def test_masks_of_another_model_in_the_same_folder_are_not_scored(
    histill: Histill, fails: Fails, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "predicted", tmp_path / "out")
    index = tmp_path / "out" / "predictions.json"
    index.write_text(index.read_text().replace('"settings": "', '"settings": "0'))
    fails(2, ["none of the table's rows"], *begin(tmp_path / "out", made / "table/data.csv", tmp_path / "r"))


def test_the_course_of_training_is_shown(histill: Histill, made: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    histill(*begin(made / "predicted", made / "table" / "data.csv", report, "--run", made / "run"))
    assert "score after each" in (report / "report.md").read_text()


def test_a_run_that_is_none_is_said(fails: Fails, made: Path, tmp_path: Path) -> None:
    call = begin(made / "predicted", made / "table" / "data.csv", tmp_path / "report", "--run", tmp_path)
    fails(4, ["holds no finished stage"], *call)
