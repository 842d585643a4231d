"""histill predict on whole slides: what comes out, what is refused, bad slides beside good ones, and going on."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "slides"))

from files import bare_tiff
from scanned import CLASSES, EVERYWHERE, MPP, Pixels, Shade, glass, shades, tissue, write_run, write_slide, write_table
from small import Histill, call, failing_from, torn, tree

from histill import methods
from histill.core.labels import IGNORE
from histill.core.record import read_record
from histill.core.storage import lock
from histill.data.tiles import TileBatch
from histill.engine import tiled
from histill.formats.geojson import read_geojson
from histill.formats.maps import open_labels, open_probabilities
from histill.slides.base import Slide
from histill.slides.open import open_slide
from histill.slides.tissue import Tissue

Fails = Callable[..., str]

NAMES = ["s.tif", "a b.tif", "-d..ash.TIFF", "UPPER.TIF", "ü ß/切片.tif", "ü ß/s.tif"]
IDS = ["-d..ash", "UPPER", "a b", "s.tif", "ü ß/s.tif", "切片"]
"""of the files, in the order of their paths: two of one stem are told apart by their folders"""


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this file every model's method is the one that sees shades."""
    monkeypatch.setattr(methods, "find", lambda name: Shade)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("model") / "shade")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six slides with names as users give them. Not to be changed."""
    place = tmp_path_factory.mktemp("in")
    for seed, name in enumerate(NAMES):
        write_slide(place / name, tissue(seed=seed))
    write_slide(place / ".hidden" / "s.tif", tissue())
    write_slide(place / "..tif.tif", tissue())
    (place / "notes.txt").write_text("no slide")
    return place


def begin(model: Path, slides: Path, to: Path, *more: object) -> list[object]:
    return ["predict", model, slides, "--to", to, *EVERYWHERE, *more]


@pytest.fixture(scope="module")
def predicted(model: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of the folder. Not to be changed."""
    to = tmp_path_factory.mktemp("out") / "predicted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Shade)
        assert call(*begin(model, slides, to)) == 0
    return to


@pytest.fixture
def one(slides: Path, tmp_path: Path) -> Path:
    """A single slide, to be spoilt."""
    (tmp_path / "one").mkdir()
    return Path(shutil.copy(slides / "s.tif", tmp_path / "one" / "s.tif"))


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["id"].removeprefix("'"): row for row in csv.DictReader(file)}


def labels_of(path: Path) -> Pixels:
    with open_labels(path) as image:
        height, width = image.shape
        return image.read(0, 0, width, height)


def map_of(folder: Path, name: str = "s") -> Pixels:
    return labels_of(folder / rows(folder)[name]["mask"])


def look(path: Path, mpp: float | None = None) -> Pixels:
    """All of a slide at level 0, read in this process."""
    with open_slide(path, mpp) as slide:
        return slide.thumbnail(max(slide.size))


def same_bytes(found: Path, clean: Path, ids: list[str]) -> bool:
    """Whether all files of some samples, the record apart, are those of another run."""
    ours, theirs = tree(found), tree(clean)
    for name in ids:
        record, other = (read_record(each / "records" / f"{name}.json") for each in (found, clean))
        assert record is not None
        assert other is not None
        if record.outputs != other.outputs or any(ours[file] != theirs[file] for file in other.outputs):
            return False
        if (record.status, record.details) != (other.status, other.details):
            return False
    return True


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_every_slide_has_its_row_whatever_its_name(predicted: Path) -> None:
    found = rows(predicted)
    assert list(found) == IDS
    text = (predicted / "predictions.csv").read_text()
    assert text.splitlines()[0] == (
        "id,status,mask,tissue_mm2,stroma_mm2,gland_mm2,fat_mm2,tiles,unreadable,mpp,message"
    )
    assert "'-d..ash" in text
    masks = [row["mask"] for row in found.values()]
    assert len(set(masks)) == len(NAMES)
    assert all(
        mask.isascii() and mask.count("/") == 1 and ".." not in mask.removesuffix(".ome.tif")[:8] for mask in masks
    )
    for row in found.values():
        assert (row["status"], row["unreadable"], row["mpp"], row["message"]) == ("ok", "0", "0.5", "")
    for folder, count in {"masks": 1, "geojson": 1, "pictures": 2, "records": 1}.items():
        assert len(list((predicted / folder).iterdir())) == count * len(NAMES)
    assert not (predicted / "probabilities").exists()
    assert torn(predicted) == []


def test_the_map_is_what_the_method_says_of_every_pixel(predicted: Path, slides: Path) -> None:
    for name, file in (("s.tif", "s.tif"), ("切片", "ü ß/切片.tif")):
        found = map_of(predicted, name)
        seen = found != IGNORE
        image = look(slides / file)
        assert found.shape == image.shape[:2]
        assert np.array_equal(found[seen], shades(image)[seen])
        assert set(np.unique(found)) == {0, 1, IGNORE}
        stained = image[..., 1] < 210
        assert seen[stained].mean() > 0.97
        assert stained[seen].mean() > 0.9


def test_columns_outlines_and_pictures_say_what_the_map_says(predicted: Path) -> None:
    for name, row in rows(predicted).items():
        found = map_of(predicted, name)
        stem = Path(row["mask"]).name.removesuffix(".ome.tif")
        outlines = read_geojson(predicted / "geojson" / f"{stem}.geojson")
        for index, each in enumerate(CLASSES):
            pixels = int((found == index).sum())
            assert float(row[f"{each}_mm2"]) == pytest.approx(pixels * (MPP / 1000) ** 2, abs=1e-6)
            areas = [outline.area for outline in outlines if outline.class_name == each]
            assert sum(area.area for area in areas) == pytest.approx(pixels)
        assert float(row["tissue_mm2"]) == pytest.approx((found != IGNORE).sum() * (MPP / 1000) ** 2, rel=0.05)
        for picture in (f"{stem}.jpg", f"{stem}-tissue.jpg"):
            with Image.open(predicted / "pictures" / picture) as opened:
                assert opened.width >= 420


def test_outlines_are_what_qupath_reads(predicted: Path) -> None:
    ids = set()
    count = 0
    for path in (predicted / "geojson").iterdir():
        document = json.loads(path.read_bytes())
        assert document["type"] == "FeatureCollection"
        assert document["features"]
        for feature in document["features"]:
            properties = feature["properties"]
            ids.add(uuid.UUID(feature["id"]))
            count += 1
            assert properties["objectType"] == "annotation"
            assert properties["classification"]["name"] in CLASSES
            assert all(0 <= part <= 255 for part in properties["classification"]["color"])
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid
            assert shape.area == pytest.approx(properties["measurements"]["area px"])
    assert len(ids) == count


def test_the_map_opens_elsewhere(predicted: Path, slides: Path) -> None:
    path = predicted / "masks" / "UPPER.ome.tif"
    found = labels_of(path)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert file.series[0].levels[0].shape == (300, 420)
        assert np.array_equal(file.asarray(), found)
        assert 'PhysicalSizeX="0.5"' in (file.ome_metadata or "")
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (420, 300)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP)
        grey = np.asarray(slide.read_region((0, 0), 0, (420, 300)))[..., 0]
    assert np.array_equal(grey, found)


def test_the_record_says_where_the_spacing_is_from(predicted: Path) -> None:
    record = read_record(predicted / "records" / "UPPER.json")
    assert record is not None
    facts = {
        name: record.details[name] for name in ("size", "level0_mpp", "mpp", "spacing_source", "lit", "unreadable")
    }
    assert facts == {
        "size": [420, 300],
        "level0_mpp": 0.5,
        "mpp": 0.5,
        "spacing_source": "file: openslide.mpp-x",
        "lit": "bright field",
        "unreadable": [],
    }


def test_two_runs_and_any_company_give_the_same_bytes(
    histill: Histill, model: Path, slides: Path, predicted: Path, tmp_path: Path
) -> None:
    assert histill(*begin(model, slides / "UPPER.TIF", tmp_path / "out")).code == 0
    assert same_bytes(tmp_path / "out", predicted, ["UPPER"])
    assert histill(*begin(model, slides / "UPPER.TIF", tmp_path / "two")).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "two")
    threads = [each if each != "1" else "2" for each in begin(model, slides / "UPPER.TIF", tmp_path / "threads")]
    assert histill(*threads).code == 0
    results = {name: digest for name, digest in tree(tmp_path / "out").items() if not name.endswith("json")}
    assert results.items() <= tree(tmp_path / "threads").items()


def test_a_real_network(
    histill: Histill, made: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histill.methods.mlps import Mlps

    monkeypatch.setattr(methods, "find", lambda name: Mlps)
    for name in "ab":
        assert histill(*begin(made / "run", one, tmp_path / name, "--probabilities", "--at", "1")).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    (row,) = rows(tmp_path / "a").values()
    assert int(row["tiles"]) > 20
    found = map_of(tmp_path / "a")
    with open_probabilities(tmp_path / "a" / "probabilities" / "s.ome.tif") as maps:
        kept = maps.read(0, 0, 210, 150)
    assert np.abs(kept.sum(0)[found != IGNORE] - 1).max() < 0.01
    top = np.take_along_axis(kept, found.clip(0, 2)[None].astype(int), 0)[0]
    assert (kept.max(0) - top)[found != IGNORE].max() <= 1 / 255 + 1e-6


# --- flags ------------------------------------------------------------------------------------------------------------


def test_at_another_spacing(histill: Histill, model: Path, one: Path, tmp_path: Path) -> None:
    assert histill(*begin(model, one, tmp_path / "out", "--at", "1", "--tile", "32")).code == 0
    found = map_of(tmp_path / "out")
    assert found.shape == (150, 210)
    level = cv2.resize(look(one), (210, 150), interpolation=cv2.INTER_AREA)
    seen = found != IGNORE
    assert np.array_equal(found[seen], shades(level)[seen])
    row = rows(tmp_path / "out")["s"]
    assert row["mpp"] == "1.0"
    assert float(row["gland_mm2"]) == pytest.approx((found == 1).sum() * 1e-6, abs=1e-6)
    (first, *_) = json.loads((tmp_path / "out" / "geojson" / "s.geojson").read_bytes())["features"]
    corners = shapely.get_coordinates(shapely.geometry.shape(first["geometry"]))
    assert (corners % 2 == 0).all()


@pytest.mark.parametrize("flags", [["--tile", "50", "--overlap", "50%"], ["--tile", "128", "--overlap", "0"]])
def test_tiles_of_another_size_see_the_same(
    flags: list[str], histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    assert histill(*begin(model, one, tmp_path / "out", *flags, "--batch", "3")).code == 0
    found, other = map_of(tmp_path / "out"), map_of(predicted, "s.tif")
    both = (found != IGNORE) & (other != IGNORE)
    assert np.array_equal(found[both], other[both])
    assert both.sum() > 0.97 * (other != IGNORE).sum()
    assert rows(tmp_path / "out")["s"]["tiles"] != rows(predicted)["s.tif"]["tiles"]


def test_probabilities_and_no_outlines(histill: Histill, model: Path, one: Path, tmp_path: Path) -> None:
    assert histill(*begin(model, one, tmp_path / "out", "--probabilities", "--no-outlines")).code == 0
    assert not (tmp_path / "out" / "geojson").exists()
    found, image = map_of(tmp_path / "out"), look(one)
    with open_probabilities(tmp_path / "out" / "probabilities" / "s.ome.tif") as maps:
        kept = maps.read(0, 0, 420, 300)
    green = image[..., 1] / 255
    seen = found != IGNORE
    assert kept[:, seen] == pytest.approx(np.stack([green, 1 - green, 0 * green])[:, seen], abs=0.6 / 255)
    assert not kept[:, ~seen].any()


@pytest.mark.parametrize("way", ["macenko", "reinhard"])
def test_stains_are_normalised(
    way: str, histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    assert histill(*begin(model, one, tmp_path / "a", "--normalise", way)).code == 0
    found, other = map_of(tmp_path / "a"), map_of(predicted, "s.tif")
    assert np.array_equal(found == IGNORE, other == IGNORE)
    assert (found != other).any()


def draw(path: Path, *shapes: shapely.Geometry) -> Path:
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(each), "properties": {"objectType": "annotation"}}
        for each in shapes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_regions_cut_the_map_to_the_pixel(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    """A triangle with a hole; what is left out may lie in what is looked at."""
    # No corner and no edge meets the centre of a pixel.
    triangle = shapely.Polygon(
        [(100.1, 40.2), (350.3, 150.4), (120.7, 260.6)], [[(150.1, 120.2), (200.3, 130), (170, 160.3)]]
    )
    left_out = shapely.box(180, 0, 220, 300), shapely.box(0, 0, 130, 90)
    within = draw(tmp_path / "r" / "S.GeoJSON", triangle)
    without = draw(tmp_path / "without.json", *left_out)
    whole = map_of(predicted, "s.tif")
    columns, lines = np.meshgrid(np.arange(420) + 0.5, np.arange(300) + 0.5)
    inside = shapely.contains_xy(triangle, columns, lines)
    outside = shapely.contains_xy(shapely.union_all(left_out), columns, lines)
    cases = {
        "within": (["--within", within], inside),
        "without": (["--without", without], ~outside),
        "both": (["--within", within, "--without", without], inside & ~outside),
    }
    for name, (flags, wanted) in cases.items():
        assert histill(*begin(model, one, tmp_path / name, *flags)).code == 0
        assert np.array_equal(map_of(tmp_path / name), np.where(wanted, whole, IGNORE))
        row = rows(tmp_path / name)["s"]
        assert float(row["gland_mm2"]) == pytest.approx(((whole == 1) & wanted).sum() * 0.25e-6, abs=1e-6)


def test_a_folder_of_regions_one_for_each_slide(
    histill: Histill, model: Path, slides: Path, one: Path, tmp_path: Path
) -> None:
    shutil.copy(slides / "a b.tif", one.parent)
    draw(tmp_path / "regions" / "s.geojson", shapely.box(0, 0, 210, 300))
    said = histill(*begin(model, one.parent, tmp_path / "out", "--within", tmp_path / "regions"))
    assert said.code == 3
    found = rows(tmp_path / "out")
    assert found["s"]["status"] == "ok"
    assert "no regions for the slide a b" in found["a b"]["message"]
    draw(tmp_path / "regions" / "a b.geojson", shapely.box(0, 0, 5, 5))
    said = histill(*begin(model, one.parent, tmp_path / "out", "--within", tmp_path / "regions"))
    assert said.code == 0
    found = rows(tmp_path / "out")
    assert (found["a b"]["status"], found["a b"]["message"]) == (
        "empty",
        "no tile holds enough tissue inside the regions",
    )
    assert float(found["a b"]["tissue_mm2"]) > 0.01
    assert (map_of(tmp_path / "out")[:, 210:] == IGNORE).all()


def test_regions_that_are_none(fails: Fails, model: Path, one: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.geojson").write_text('{"type": "FeatureCollection", "features": [{"type')
    (tmp_path / "empty").mkdir()
    for name in ("torn.geojson", "nothing.geojson", "empty"):
        for flag in ("--within", "--without"):
            fails(4, name, *begin(model, one, tmp_path / "out", flag, tmp_path / name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--at", "0"], "--at: 0 um/px"),
        (["--at", "-0.5"], "--at"),
        (["--at", "nan"], "--at"),
        (["--at", "1e-9"], "--at"),
        (["--mpp", "0"], "--mpp: 0 um/px"),
        (["--mpp", "nan"], "--mpp"),
        (["--mpp", "inf"], "--mpp"),
        (["--mpp", "352.8"], "--mpp"),
        (["--tile", "-1"], "--tile"),
        (["--tile", "100000"], "--tile"),
        (["--batch", "0"], "--batch"),
        (["--batch", "100000"], "--batch"),
        (["--overlap", "100%"], "overlap"),
        (["--overlap", "-1%"], "'-1%' is not a share"),
        (["--most-unreadable", "101%"], "'101%' is not a share"),
        (["--split", "test"], "--split"),
    ],
)
def test_flags_that_mean_nothing(
    flags: list[str], part: str, fails: Fails, model: Path, one: Path, tmp_path: Path
) -> None:
    fails(2, part, *begin(model, one, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--mpp", "0.5"],
        ["--at", "0.5"],
        ["--tile", "32"],
        ["--overlap", "50%"],
        ["--batch", "3"],
        ["--within", "x.geojson"],
        ["--without", "x.geojson"],
        ["--normalise", "macenko"],
        ["--no-outlines"],
        ["--most-unreadable", "2%"],
        ["--at", "0.5", "--no-outlines", "--probabilities"],
    ],
)
def test_flags_of_slides_with_images(flags: list[str], fails: Fails, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(tissue()).save(tmp_path / "in" / "a.png")
    idle = [flag for flag in flags if flag.startswith("--") and flag != "--probabilities"]
    table = write_table(tmp_path / "t.csv", [{"id": "a", "path": tmp_path / "in" / "a.png"}])
    for images in (tmp_path / "in", tmp_path / "in" / "a.png", table):
        fails(2, [", ".join(idle), "here are images", "--as slides"], *begin(model, images, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


# --- tables, folders, single files ------------------------------------------------------------------------------------


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


# --- bad slides -------------------------------------------------------------------------------------------------------

LENGTHS = 12
BAD: dict[str, str] = {
    **{f"cut {i:02}.tif": "" for i in range(LENGTHS)},
    "empty.tif": "an empty file",
    "junk.svs": "neither a slide nor an image",
    "text.tif": "neither a slide nor an image",
    "missing.tif": "does not say how large a pixel is",
    "zero.tif": "does not say how large a pixel is",
    "screen.tif": "352.8 um/px",
    "longish.tif": "not the sides of a square",
    "sixteen.tif": "16 or more bits",
    "grey16.tif": "16 or more bits",
    "channels.tif": "channels that are not colours",
    "sparse.tif": "more than any slide has",
    "bomb.tif": "may be a bomb",
    "tiles.tif": "cannot be decoded",
    "coarse.tif": "coarser than the 0.5",
}
GOOD = {
    "grey.tif": "ok",
    "alpha.tif": "ok",
    "single.tif": "ok",
    "odd.tif": "ok",
    "jpeg.png": "ok",
    "one tile.tif": "ok",
    "glass.tif": "empty",
    "black.tif": "empty",
    "dot.tif": "empty",
}
"""What looks odd and is read all the same."""


def spoil_tiles(path: Path, *numbers: int) -> Path:
    """Fill some tiles of the largest level with zeros, as a copy that was broken off and gone on with leaves them."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = [(page.dataoffsets[number], page.databytecounts[number]) for number in numbers]
    with path.open("r+b") as stream:
        for offset, count in places:
            stream.seek(offset)
            stream.write(bytes(count))
    return path


def write_bad(folder: Path) -> None:
    """One file for each entry of BAD and GOOD."""
    image = tissue()
    whole = write_slide(folder / "whole.tif", image).read_bytes()
    (folder / "whole.tif").unlink()
    for i in range(LENGTHS):
        (folder / f"cut {i:02}.tif").write_bytes(whole[: 1 + (len(whole) - 2) * i // (LENGTHS - 1)])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "junk.svs").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "text.tif").write_text("not a slide\n" * 100)
    write_slide(folder / "missing.tif", image, mpp=None)
    write_slide(folder / "zero.tif", image, mpp=None, resolution=(0, 0), resolutionunit="CENTIMETER")
    write_slide(folder / "screen.tif", image, mpp=352.8)
    write_slide(folder / "longish.tif", image, mpp=None, resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    write_slide(folder / "sixteen.tif", image.astype(np.uint16) * 257, downs=(1,))
    write_slide(folder / "grey16.tif", image[..., 1].astype(np.uint16) * 257, downs=(1,), photometric="minisblack")
    write_slide(
        folder / "channels.tif", np.repeat(image, 2, 2), downs=(1,), photometric="minisblack", planarconfig="contig"
    )
    for name, side in (("sparse.tif", 400_000), ("bomb.tif", 200_000)):
        tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 322: 4096, 323: 4096, 324: 8, 325: 9}
        bare_tiff(folder / name, {tag: [value] for tag, value in tags.items()}, big=True)
    spoil_tiles(write_slide(folder / "tiles.tif", image), *range(8, 20))
    write_slide(folder / "coarse.tif", image, mpp=8.0)

    green = np.repeat(image[..., 1:2], 3, 2)
    write_slide(folder / "grey.tif", image[..., 1], photometric="minisblack")
    write_slide(
        folder / "alpha.tif", np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]), extrasamples=["unassalpha"]
    )
    write_slide(folder / "single.tif", image, downs=(1,))
    write_slide(folder / "odd.tif", image, downs=(1, 1.37, 3.3, 7.9))
    (folder / "jpeg.png").write_bytes(write_slide(folder / "x.tif", green).read_bytes())
    (folder / "x.tif").unlink()
    write_slide(folder / "one tile.tif", tissue(300, 420), tile=(512, 512))
    write_slide(folder / "glass.tif", glass())
    write_slide(folder / "black.tif", np.zeros((300, 420, 3), np.uint8))
    write_slide(folder / "dot.tif", np.full((1, 1, 3), 200, np.uint8), downs=(1,))


@pytest.fixture(scope="module")
def ward(model: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of bad slides with two good ones, predicted: the output, and what was said. Not to be changed."""
    place = tmp_path_factory.mktemp("ward")
    write_bad(place / "in")
    for name in ("a b.tif", "UPPER.TIF"):
        shutil.copy(slides / name, place / "in" / name)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(methods, "find", lambda name: Shade)
        code = call(*begin(model, place / "in", place / "out", "--max-quarantined", "100%"))
    assert code == 3, said.getvalue()
    return place / "out", said.getvalue()


def test_all_bad_slides_are_put_aside_with_a_reason_and_a_mend(ward: tuple[Path, str]) -> None:
    folder, said = ward
    found = rows(folder)
    assert len(found) == len(BAD) + len(GOOD) + 2
    for name, part in BAD.items():
        row = found[Path(name).stem]
        assert row["status"] == "quarantined", name
        assert part in row["message"], name
        assert name in row["message"]
        assert row["message"].count(". ") >= 1
        assert row["mask"] == row["tiles"] == ""
        assert f"put aside: {row['message']}" in said
    assert "Traceback" not in said
    assert torn(folder) == []
    stems = {Path(row["mask"]).name for row in found.values() if row["mask"]}
    assert {path.name for path in (folder / "masks").iterdir()} == stems


def test_the_others_are_the_same_bytes_as_without_them(ward: tuple[Path, str], predicted: Path) -> None:
    assert same_bytes(ward[0], predicted, ["UPPER"])
    assert (ward[0] / rows(ward[0])["a b"]["mask"]).read_bytes() == (
        predicted / rows(predicted)["a b"]["mask"]
    ).read_bytes()


def test_what_looks_odd_is_read(ward: tuple[Path, str]) -> None:
    found = rows(ward[0])
    for name, status in GOOD.items():
        row = found[Path(name).stem]
        assert row["status"] == status, (name, row)
        assert bool(row["message"]) == (status == "empty"), name
    image = tissue()
    plain = map_of(ward[0], "single")
    assert np.array_equal(plain[plain != IGNORE], shades(image)[plain != IGNORE])
    for name in ("grey", "alpha", "odd", "jpeg", "one tile"):
        other = map_of(ward[0], name)
        both = (plain != IGNORE) & (other != IGNORE)
        assert both.sum() > 0.9 * (plain != IGNORE).sum(), name
        assert np.array_equal(other[both], plain[both]), name


@pytest.mark.slow
def test_real_slides(histill: Histill, model: Path, data_root: Path, tmp_path: Path) -> None:
    """Scanners' files, odd ones and damaged ones, all in one folder, at 2 um/px; one slide says no spacing."""
    command = begin(model, data_root / "slides", tmp_path / "out", "--at", "2", "--max-quarantined", "100%")
    said = histill(*command)
    assert said.code == 3
    assert "Traceback" not in said.err
    found = rows(tmp_path / "out")
    status = {name: row["status"] for name, row in found.items()}
    for name in ("CMU-1-Small-Region", "hamamatsu_dapi"):
        assert status[name] == "ok", found[name]
    for name in ("unreadable_tiles", "broken_header", "vectra_small", "olympus_no_pixels", "dicom_sm_grayscale16"):
        assert status[name] == "quarantined", found[name]
    assert "--mpp" in found["TCGA-CR-7395-01A-01-TS1"]["message"]
    assert all(row["message"] for name, row in found.items() if status[name] != "ok")
    record = read_record(tmp_path / "out" / "records" / "hamamatsu_dapi.json")
    assert record is not None
    assert record.details["lit"] == "fluorescence"
    table = write_table(
        tmp_path / "slides.csv",
        [
            {"id": "given", "path": data_root / "slides" / "TCGA-CR-7395-01A-01-TS1.svs", "mpp": 0.25},
            {"id": "CMU-1-Small-Region", "path": data_root / "slides" / "CMU-1-Small-Region.svs"},
        ],
    )
    assert histill(*begin(model, table, tmp_path / "table", "--at", "2")).code == 0
    assert float(rows(tmp_path / "table")["given"]["tissue_mm2"]) > 0.1
    assert same_bytes(tmp_path / "table", tmp_path / "out", ["CMU-1-Small-Region"])
    for folder in (tmp_path / "out", tmp_path / "table"):
        assert torn(folder) == []
        for row in rows(folder).values():
            if row["mask"]:
                outlines = read_geojson(folder / "geojson" / Path(row["mask"]).name.replace(".ome.tif", ".geojson"))
                scale = float(row["mpp"]) / 1000
                level0 = read_record(folder / "records" / Path(row["mask"]).name.replace(".ome.tif", ".json"))
                assert level0 is not None
                area = sum(each.area.area for each in outlines) * (float(level0.details["level0_mpp"]) / 1000) ** 2
                pixels = int((labels_of(folder / row["mask"]) != IGNORE).sum())
                assert area == pytest.approx(pixels * scale**2, rel=1e-3)


def test_bad_slides_stop_a_run_unless_they_are_allowed(
    fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path
) -> None:
    for name in ("a.svs", "b.svs", "t.svs"):
        (one.parent / name).write_bytes(b"torn")
    parts = ["2 of 4 slides cannot be read", "a.svs", "--max-quarantined"]
    fails(4, parts, *begin(model, one.parent, tmp_path / "out"))
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["quarantined", "quarantined"]
    fails(4, "1 of 4 slides", *begin(model, one.parent, tmp_path / "none", "--max-quarantined", "0"))
    said = histill(*begin(model, one.parent, tmp_path / "out", "--max-quarantined", "75%"))
    assert said.code == 3
    assert "3 of 4 slides were put aside: see predictions.csv" in said.out
    assert [row["status"] for row in rows(tmp_path / "out").values()] == [
        "quarantined",
        "quarantined",
        "ok",
        "quarantined",
    ]


def test_a_mended_slide_is_done_by_the_next_run(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    good = one.read_bytes()
    one.write_bytes(good[:5000])
    assert histill(*begin(model, one, tmp_path / "out")).code == 3
    assert histill(*begin(model, one, tmp_path / "out")).code == 3
    one.write_bytes(good)
    assert histill(*begin(model, one, tmp_path / "out")).code == 0
    assert np.array_equal(map_of(tmp_path / "out"), map_of(predicted, "s.tif"))


def test_an_empty_slide_is_said_and_not_tried_again(
    histill: Histill, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slide(tmp_path / "in" / "a.tif", glass())
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out"))
    assert said.code == 0
    assert "no tissue: a: no pixel differs from the background" in said.err
    assert "1 of 1 slides hold no tissue: see predictions.csv" in said.out
    row = rows(tmp_path / "out")["a"]
    assert (row["status"], row["mask"], row["message"]) == ("empty", "", "no pixel differs from the background")
    assert [row[name] for name in ("tissue_mm2", "gland_mm2", "tiles", "unreadable", "mpp")] == [
        "0.0",
        "0.0",
        "0",
        "0",
        "0.5",
    ]
    before = tree(tmp_path / "out")
    monkeypatch.setattr("histill.engine.tiled.open_guarded", None)
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out"))
    assert said.code == 0
    assert "1 of 1 slides hold no tissue" in said.out
    assert tree(tmp_path / "out") == before


# --- tiles that cannot be read ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pixels]:
    """A slide so wide that its pictures are made of a smaller level, and its pixels; two stored tiles are zeros."""
    image = np.concatenate([tissue(256, 360, seed) for seed in range(10)], axis=1)
    path = write_slide(tmp_path_factory.mktemp("wide") / "s.tif", image)
    # From x = 128 to 256 and y = 128 to 192, as a row has 57 tiles.
    return spoil_tiles(path, 2 * 57 + 2, 2 * 57 + 3), image


LOST = (slice(128, 192), slice(128, 256))


def test_unreadable_tiles_are_counted_and_never_grey(
    histill: Histill, model: Path, wide: tuple[Path, Pixels], tmp_path: Path
) -> None:
    """With tiles of 32 px that do not overlap exactly eight are lost, of more than 500."""
    path, image = wide
    command = begin(model, path, tmp_path / "out", "--tile", "32", "--overlap", "0")
    assert histill(*command).code == 3
    row = rows(tmp_path / "out")["s"]
    assert "7 tiles cannot be read, more than are left out" in row["message"]
    assert "--most-unreadable" in row["message"]
    assert not (tmp_path / "out" / "masks").exists() or not list((tmp_path / "out" / "masks").iterdir())

    command += ["--most-unreadable", "2%"]
    assert histill(*command).code == 0
    row = rows(tmp_path / "out")["s"]
    assert (row["status"], row["unreadable"]) == ("ok", "8")
    record = read_record(tmp_path / "out" / "records" / "s.json")
    assert record is not None
    assert len(record.details["unreadable"]) == 8
    assert "cannot be decoded" in record.details["why"]
    found = map_of(tmp_path / "out")
    assert (image[LOST][..., 1] < 200).mean() > 0.8
    assert (found[LOST] == IGNORE).all()
    seen = found != IGNORE
    assert np.array_equal(found[seen], shades(image)[seen])
    stained = image[..., 1] < 210
    stained[LOST] = False
    assert seen[stained].mean() > 0.95
    outlines = read_geojson(tmp_path / "out" / "geojson" / "s.geojson")
    assert sum(outline.area.area for outline in outlines) == seen.sum()
    before = tree(tmp_path / "out")
    assert "1 done before" in histill(*command).err
    assert tree(tmp_path / "out") == before


def test_overlapping_tiles_fill_what_they_can(
    histill: Histill, model: Path, wide: tuple[Path, Pixels], tmp_path: Path
) -> None:
    """Tiles of 48 px, 36 apart: what reaches into the lost tiles goes, and what it covers beyond comes from others."""
    path, image = wide
    command = begin(model, path, tmp_path / "out", "--tile", "48", "--most-unreadable", "10%")
    assert histill(*command).code == 0
    found = map_of(tmp_path / "out")
    readable = np.zeros(found.shape, bool)
    lost = 0
    for y in range(0, 256, 36):
        for x in range(0, 3600, 36):
            if x < 256 and x + 48 > 128 and y < 192 and y + 48 > 128:
                lost += 1
            else:
                readable[y : y + 48, x : x + 48] = True
    assert int(rows(tmp_path / "out")["s"]["unreadable"]) == lost
    seen = found != IGNORE
    assert not seen[~readable].any()
    stained = image[..., 1] < 210
    assert seen[stained & readable].mean() > 0.95
    assert np.array_equal(found[seen], shades(image)[seen])


def test_a_slide_whose_overview_cannot_be_read_is_put_aside(
    histill: Histill, model: Path, one: Path, tmp_path: Path
) -> None:
    """Where tissue is looked for in the largest level, nobody knows what lies in a lost tile of it."""
    spoil_tiles(one, 2 * 7 + 3)
    assert histill(*begin(model, one, tmp_path / "out", "--most-unreadable", "50%")).code == 3
    assert "a tile's data are cut off or damaged" in rows(tmp_path / "out")["s"]["message"]


# --- slides that change, readers that die -----------------------------------------------------------------------------


def test_slides_that_change_while_they_are_read(
    histill: Histill, model: Path, slides: Path, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After tissue was looked for and before the tiles are read; UPPER is left alone."""
    ways = ("exchanged", "gone", "longer", "same size", "shorter")
    (tmp_path / "in").mkdir()
    for name in (*ways, "UPPER"):
        shutil.copy(slides / "UPPER.TIF", tmp_path / "in" / f"{name}.tif")
    found = tiled.find_tissue

    def meddle(slide: Slide, *more: Any) -> Tissue:
        path, data = slide.path, slide.path.read_bytes()
        if path.stem == "gone":
            path.unlink()
        elif path.stem == "exchanged":
            path.with_name("other").write_bytes(data)
            path.with_name("other").replace(path)
        elif path.stem in ways:
            path.write_bytes(
                {"l": data + b"\0", "sh": data[: len(data) // 2], "sa": data[::-1]}[path.stem[:2].removesuffix("o")]
            )
        return found(slide, *more)

    monkeypatch.setattr(tiled, "find_tissue", meddle)
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out", "--max-quarantined", "100%"))
    assert said.code == 3, said
    everything = rows(tmp_path / "out")
    assert len(everything) == 6
    for way in ways:
        assert everything[way]["status"] == "quarantined"
        # Where pixels are gone, that is what is met first.
        assert any(part in everything[way]["message"] for part in ("changed while it was read", "cannot be decoded"))
        left = [
            path for folder in ("masks", "geojson", "pictures") for path in (tmp_path / "out" / folder).glob(f"{way}*")
        ]
        assert left == []
    assert "changed while it was read" in everything["longer"]["message"]
    assert same_bytes(tmp_path / "out", predicted, ["UPPER"])
    assert torn(tmp_path / "out") == []


def struck(monkeypatch: pytest.MonkeyPatch, nth: int, deed: Callable[[], object]) -> None:
    """Do something at the n-th call of the network."""
    calls = 0

    class Struck(Shade):
        def predict_tiles(self, batch: TileBatch) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                deed()
            return super().predict_tiles(batch)

    monkeypatch.setattr(methods, "find", lambda name: Struck)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """All readers that are started."""
    started = []
    begin_one = subprocess.Popen

    def noted(*arguments: Any, **more: Any) -> Any:
        started.append(begin_one(*arguments, **more))
        return started[-1]

    monkeypatch.setattr("histill.slides.reader.subprocess.Popen", noted)
    return started


def test_a_reader_that_is_killed_is_replaced(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[bytes]],
) -> None:  # fmt: skip
    # Not all tiles are read by the time that it dies.
    monkeypatch.setattr("histill.slides.worker.PIXELS_IN_FLIGHT", 1)
    struck(monkeypatch, 2, lambda: children[-1].kill())
    said = histill(*begin(model, one, tmp_path / "out", "--tile", "32", "--overlap", "0", "--batch", "4"))
    assert said.code == 0
    assert len(children) == 2
    assert all(child.poll() is not None for child in children)
    found, whole = map_of(tmp_path / "out"), map_of(predicted, "s.tif")
    both = (found != IGNORE) & (whole != IGNORE)
    assert np.array_equal(found[both], whole[both])
    assert rows(tmp_path / "out")["s"]["unreadable"] == "0"


def test_no_reader_starts(
    fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slide is to blame for that: none is put aside."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "nothing"))
        fails(75, ["its reader did not start", "Run it again"], *begin(model, one, tmp_path / "out"))
    assert not (tmp_path / "out" / "records").exists()
    assert histill(*begin(model, one, tmp_path / "out")).code == 0


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def half(predicted: Path, tmp_path: Path) -> Path:
    """A copy of what was predicted, to be spoilt."""
    return Path(shutil.copytree(predicted, tmp_path / "half"))


def test_what_is_done_is_not_done_again(
    histill: Histill, model: Path, slides: Path, predicted: Path, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histill.engine.tiled.open_guarded", None)
    said = histill(*begin(model, slides, half))
    assert said.code == 0
    assert "6 slides: 6 done before, 0 put aside" in said.err
    assert tree(half) == tree(predicted)


def test_what_went_bad_is_done_again_and_nothing_else(
    histill: Histill, model: Path, slides: Path, predicted: Path, half: Path
) -> None:
    masks = {name: half / row["mask"] for name, row in rows(half).items()}
    (half / "records" / "UPPER.json").write_bytes((half / "records" / "UPPER.json").read_bytes()[:100])
    data = bytearray(masks["a b"].read_bytes())
    data[-5] ^= 1
    masks["a b"].write_bytes(data)
    (half / "pictures" / "UPPER.jpg").write_bytes(b"?")
    (half / "geojson" / f"{masks['切片'].name.removesuffix('.ome.tif')}.geojson").unlink()
    (half / "predictions.csv").write_text("torn")
    (half / "masks" / ".histill-0123").write_bytes(b"left by a kill")
    said = histill(*begin(model, slides, half))
    assert said.code == 0
    assert "6 slides: 3 done before, 0 put aside" in said.err
    assert tree(half) == tree(predicted)


def test_other_settings_do_all_again(histill: Histill, model: Path, one: Path, tmp_path: Path) -> None:
    assert histill(*begin(model, one, tmp_path / "out", "--probabilities")).code == 0
    for flags in (["--at", "0.6", "--mpp", "0.5"], ["--overlap", "30%", "--no-outlines"]):
        said = histill(*begin(model, one, tmp_path / "out", *flags))
        assert said.code == 0
        assert "0 done before" in said.err
    # Nothing is left of what the others wrote and the last did not.
    assert histill(*begin(model, one, tmp_path / "clean", *flags)).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_another_slide_under_the_name_is_done(
    histill: Histill, model: Path, slides: Path, one: Path, tmp_path: Path
) -> None:
    assert histill(*begin(model, one, tmp_path / "out")).code == 0
    shutil.copy(slides / "a b.tif", one)
    said = histill(*begin(model, one, tmp_path / "out"))
    assert "0 done before" in said.err
    found = map_of(tmp_path / "out")
    assert np.array_equal(found[found != IGNORE], shades(look(one))[found != IGNORE])


def test_another_histill_in_the_folder(fails: Fails, model: Path, slides: Path, half: Path, predicted: Path) -> None:
    with lock(half):
        fails(8, "another histill works", *begin(model, slides, half))
    assert tree(half) == tree(predicted)


@pytest.mark.parametrize("nth", [9])
def test_a_full_disk_and_then_room_again(
    nth: int, fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin(model, one, tmp_path / "out", "--probabilities")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_from(nth, os.fsync))
        fails(7, [str(tmp_path / "out"), "the disk is full", "goes on"], *command)
    assert torn(tmp_path) == []
    assert histill(*command).code == 0
    assert histill(*begin(model, one, tmp_path / "clean", "--probabilities")).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_a_read_only_disk(
    fails: Fails, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing_from(1, Path.mkdir, errno.EROFS))
    fails(7, [str(tmp_path / "out"), "read-only"], *begin(model, one, tmp_path / "out"))


def test_a_file_in_place_of_the_folder(fails: Fails, model: Path, one: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    fails(7, "a file stands", *begin(model, one, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"
