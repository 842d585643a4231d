"""histill predict on whole slides: tables, folders and single files of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from findings import Fails, begin, map_of, rows
from PIL import Image
from scanned import shades, tissue, write_run, write_slide, write_table
from small import Histill

from histill.core.labels import IGNORE
from histill.core.record import read_record


def test_a_table_says_the_spacing_and_else_the_file_and_else_the_flag(
    histill: Histill, model: Path, tmp_path: Path
) -> None:
    """Three slides with the same pixels: of 0.5 by the table, which counts before the file, by the file, by nobody."""
    image = tissue()
    given = [("table", 0.25, 0.5), ("file", 0.5, None), ("nobody", None, None)]
    made = [
        {"id": name, "path": write_slide(tmp_path / "in" / f"{name}.tif", image, mpp=stated), "mpp": mpp}
        for name, stated, mpp in given
    ]
    table = write_table(tmp_path / "slides.csv", made)
    said = histill(*begin(model, table, tmp_path / "out"))
    assert said.code == 3
    assert "note: table: file: openslide.mpp-x says 0.25 um/px; the user's 0.5 counts" in said.err
    found = rows(tmp_path / "out")
    assert [row["status"] for row in found.values()] == ["ok", "ok", "quarantined"]
    assert "--mpp" in found["nobody"]["message"]

    said = histill(*begin(model, table, tmp_path / "out", "--mpp", "0.5"))
    assert said.code == 0
    found = rows(tmp_path / "out")
    for name in ("file", "nobody"):
        assert {**found[name], "id": "", "mask": ""} == {**found["table"], "id": "", "mask": ""}
        assert np.array_equal(map_of(tmp_path / "out", name), map_of(tmp_path / "out", "table"))
    sources = [read_record(tmp_path / "out" / "records" / f"{name}.json") for name, *_ in given]
    assert [each.details["spacing_source"] for each in sources if each] == ["user", "file: openslide.mpp-x", "user"]
    # With the flag a slide is not another one: its truth is found all the same.
    rows_of_truth = [{**each, "mask": tmp_path / "out" / found[str(each["id"])]["mask"]} for each in made]
    truth = write_table(tmp_path / "truth.csv", rows_of_truth)
    said = histill("evaluate", tmp_path / "out", truth, "--to", tmp_path / "report", "--images", "0")
    assert said.code == 0, said.err
    assert "mIoU over the set 1.000" in said.out


def test_a_flag_that_contradicts_a_file_is_said(histill: Histill, model: Path, one: Path, tmp_path: Path) -> None:
    said = histill(*begin(model, one, tmp_path / "out", "--mpp", "0.25"))
    assert said.code == 0
    assert "note: s: file: openslide.mpp-x says 0.5 um/px, which counts" in said.err
    assert rows(tmp_path / "out")["s"]["mpp"] == "0.5"
    record = read_record(tmp_path / "out" / "records" / "s.json")
    assert record is not None
    assert record.details["level0_mpp"] == 0.5


def test_a_split_of_a_table(histill: Histill, model: Path, slides: Path, tmp_path: Path) -> None:
    files = {"a": ("s.tif", "train"), "b": ("a b.tif", "test")}
    table = write_table(
        tmp_path / "slides.csv",
        [{"id": id_, "path": slides / name, "split": split} for id_, (name, split) in files.items()],
    )
    said = histill(*begin(model, table, tmp_path / "out", "--split", "test"))
    assert said.code == 0
    assert list(rows(tmp_path / "out")) == ["b"]


def test_a_table_whose_first_slide_is_torn_is_one_of_slides(
    histill: Histill, model: Path, slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.tif").write_bytes((slides / "s.tif").read_bytes()[:200])
    paths = {"a": tmp_path / "torn.tif", "b": slides / "s.tif", "c": slides / "a b.tif"}
    table = write_table(tmp_path / "slides.csv", [{"id": name, "path": path} for name, path in paths.items()])
    said = histill(*begin(model, table, tmp_path / "out"))
    assert said.code == 3
    assert "3 slides: 0 done before, 1 put aside" in said.err
    assert {name: row["status"] for name, row in rows(tmp_path / "out").items()} == {
        "a": "quarantined",
        "b": "ok",
        "c": "ok",
    }


def test_crops_and_slides_in_one_table(fails: Fails, model: Path, slides: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t.csv", [{"id": "a", "path": slides / "s.tif"}, {"id": "b", "path": slides / "a b.tif"}]
    )
    text = table.read_text().splitlines()
    header = text[0].split(",")
    cells = dict(zip(header, text[2].split(","), strict=True)) | dict(zip("xywh", "0 0 10 10".split(), strict=True))
    table.write_text("\n".join([*text[:2], ",".join(cells[name] for name in header)]) + "\n")
    fails(2, ["1 fault", "line 3 (b) is a crop", "--as images"], *begin(model, table, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_images_beside_slides_are_left_out_and_said(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    """A label, an overview: what scanners and people lay beside slides. A TIFF may always be a slide."""
    image = tissue()
    for name in ("label.png", "overview.JPG", "old.bmp"):
        Image.fromarray(image).save(one.parent / name)
    tifffile.imwrite(one.parent / "strips.tif", image, photometric="rgb", resolution=(20_000, 20_000), resolutionunit=3)
    said = histill(*begin(model, one.parent, tmp_path / "out"))
    assert said.code == 0
    assert "note: 3 images beside the slides are left out" in said.err
    assert "label.png" in said.err
    assert list(rows(tmp_path / "out")) == ["s", "strips"]
    said = histill(*begin(model, one.parent, tmp_path / "slides", "--as", "slides", "--mpp", "0.5"))
    assert said.code == 0
    assert list(rows(tmp_path / "slides")) == ["label", "old", "overview", "s", "strips"]
    assert np.array_equal(map_of(tmp_path / "slides", "label"), map_of(tmp_path / "slides", "strips"))
    said = histill(*begin(model, one.parent, tmp_path / "images", "--as", "images"))
    assert said.code == 0
    assert list(rows(tmp_path / "images")) == ["label.png", "old.bmp", "overview.JPG", "s.tif", "strips.tif"]
    assert all((tmp_path / "images" / row["mask"]).suffix == ".png" for row in rows(tmp_path / "images").values())


def test_flat_images_are_slides_where_the_user_says_so(histill: Histill, model: Path, tmp_path: Path) -> None:
    image = tissue()
    Image.fromarray(image).save(tmp_path / "a.png")
    said = histill(*begin(model, tmp_path / "a.png", tmp_path / "out", "--as", "slides"))
    assert said.code == 3
    assert "--mpp" in rows(tmp_path / "out")["a"]["message"]
    said = histill(*begin(model, tmp_path / "a.png", tmp_path / "out", "--as", "slides", "--mpp", "0.5"))
    assert said.code == 0
    found = map_of(tmp_path / "out", "a")
    assert np.array_equal(found[found != IGNORE], shades(image)[found != IGNORE])


def test_a_folder_of_nothing_but_torn_slides_is_one_of_slides(histill: Histill, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(b"not a slide" * 100)
    for path in (tmp_path / "in", tmp_path / "in" / "a.svs"):
        said = histill(*begin(model, path, tmp_path / "out"))
        assert said.code == 3
        assert "1 slides: 0 done before, 1 put aside" in said.err
        assert "neither a slide nor an image" in rows(tmp_path / "out")["a"]["message"]


def test_webp_images_alone(histill: Histill, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(tissue()).save(tmp_path / "in" / "a.webp")
    assert histill(*begin(model, tmp_path / "in", tmp_path / "out")).code == 0
    assert list(rows(tmp_path / "out")) == ["a.webp"]


@pytest.mark.parametrize("name", ["nothing", "nothing.svs", "nothing.csv", "empty"])
def test_no_slides(name: str, fails: Fails, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for kind in ("auto", "slides"):
        fails(4, name, *begin(model, tmp_path / name, tmp_path / "out", "--as", kind))
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text(histill: Histill, model: Path, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    try:
        shutil.copy(slides / "s.tif", os.fsencode(tmp_path / "in") + b"/\xff new\nline;%s.tif")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert histill(*begin(model, tmp_path / "in", tmp_path / "out")).code == 0
    ((name, row),) = rows(tmp_path / "out").items()
    assert name == "\\udcff new\nline;%s"
    assert row["status"] == "ok"
    assert row["mask"].isascii()
    assert "1 done before" in histill(*begin(model, tmp_path / "in", tmp_path / "out")).err


def test_a_run_without_spacing_needs_one(fails: Fails, histill: Histill, one: Path, tmp_path: Path) -> None:
    model = write_run(tmp_path / "model", mpp=None)
    fails(2, ["--at", "nobody knows"], *begin(model, one, tmp_path / "out"))
    assert histill(*begin(model, one, tmp_path / "out", "--at", "0.5")).code == 0


def test_output_among_the_slides_is_refused(fails: Fails, model: Path, one: Path) -> None:
    fails(2, "lies in the folder", *begin(model, one.parent, one.parent / "out"))
    assert [path.name for path in one.parent.iterdir()] == ["s.tif"]
