"""histill slide info, thumbnail and tiles: what they say of made and of real files, and what they refuse."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from scanned import glass, tissue, write_slide
from small import Histill, torn, tree

from histill.core.geometry import Region
from histill.formats.geojson import read_geojson
from histill.slides.open import open_slide

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 0.25 um/px, one of glass alone, and one that is torn. Not to be changed."""
    place = tmp_path_factory.mktemp("slides")
    write_slide(place / "s lide.tif", tissue(), mpp=0.25, downs=(1, 2.5))
    write_slide(place / "glass.tif", glass(), mpp=None)
    (place / "torn.svs").write_bytes((place / "s lide.tif").read_bytes()[:500])
    return place


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- info -------------------------------------------------------------------------------------------------------------


def test_what_is_in_a_file(histill: Histill, slides: Path) -> None:
    said = histill("slide", "info", slides / "s lide.tif", "--json", "--properties")
    assert (said.code, said.err) == (0, "")
    (facts,) = lines(said.out)
    properties = facts.pop("properties")
    assert facts == {
        "path": str(slides / "s lide.tif"),
        "kind": "generic-tiff",
        "size": [420, 300],
        "levels": [[420, 300, 1.0], [168, 120, 2.5]],
        "mpp": 0.25,
        "spacing": "file: openslide.mpp-x",
        "mm": [0.105, 0.075],
        "notes": [],
    }
    assert properties["openslide.level-count"] == "2"
    text = histill("slide", "info", slides / "s lide.tif", "--mpp", "0.5").out
    for part in ("420 x 300 px, 0.21 x 0.15 mm", "0.5 um/px (user)", "168 x 120, 1 : 2.5", "the user's 0.5 counts"):
        assert part in text


def test_a_folder_in_which_one_is_torn(histill: Histill, slides: Path) -> None:
    said = histill("slide", "info", slides, "--json")
    assert said.code == 3
    assert said.err == "1 of 3 cannot be opened\n"
    glassy, whole, broken = lines(said.out)
    assert Path(glassy["path"]).name == "glass.tif"
    assert (glassy["mpp"], glassy["mm"]) == (None, None)
    assert "--mpp" in glassy["spacing"]
    assert whole["size"] == [420, 300]
    assert set(broken) == {"path", "error"}
    assert "torn.svs" in broken["error"]
    assert "cut off" in broken["error"]


def test_real_files(histill: Histill, data_root: Path) -> None:
    with (data_root / "slides" / "manifest.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    said = histill("slide", "info", data_root / "slides", "--json")
    assert said.code == 3
    found = {Path(each["path"]).name: each for each in lines(said.out)}
    # The two DICOM files of one series are one slide.
    assert set(rows) - set(found) == {"dicom_boxes_1.dcm"}
    refused = {name for name, facts in found.items() if "error" in facts}
    assert refused == {
        "broken_header.svs",
        "dicom_sm_grayscale16.dcm",
        "olympus_no_pixels.vsi",
        "unopenable_compression.tiff",
        "vectra_small.qptiff",
        "zero_gi.tif",
    }
    for name, facts in found.items():
        if name in refused:
            assert facts["error"].startswith(str(data_root / "slides" / name))
            continue
        row = rows[name]
        assert facts["size"] == [int(row["width"]), int(row["height"])], name
        mpp = float(row["mpp"]) if row["mpp"] else None
        # 352 um/px is what an editor writes that thinks of screens.
        believed = mpp if mpp is not None and mpp < 20 else None
        assert facts["mpp"] == (believed if believed is None else pytest.approx(believed, rel=1e-3)), name
        assert mpp == believed or "not taken" in facts["notes"][0], name
    assert len(found["hamamatsu_dapi.ndpi"]["levels"]) == 7


# --- thumbnail --------------------------------------------------------------------------------------------------------


def test_a_picture_is_what_reading_gives(histill: Histill, slides: Path, tmp_path: Path) -> None:
    said = histill("slide", "thumbnail", slides / "s lide.tif", "--to", tmp_path / "-a ü.png", "--longest", "100")
    assert said.code == 0
    with open_slide(slides / "s lide.tif") as slide:
        expected = slide.read_as(Region(0, 0, 420, 300), 100, 71)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "-a ü.png")), expected)


@pytest.mark.parametrize(("name", "part"), [("s lide.tif", "tissue: 5"), ("glass.tif", "tissue: 0.0% of the slide (")])
def test_a_picture_of_tissue(name: str, part: str, histill: Histill, slides: Path, tmp_path: Path) -> None:
    said = histill("slide", "thumbnail", slides / name, "--to", tmp_path / "new" / "t.JPG", "--tissue")
    assert said.code == 0
    assert part in said.out
    with Image.open(tmp_path / "new" / "t.JPG") as picture:
        assert picture.format == "JPEG"
        assert picture.width == 420
        assert picture.height > 300


# --- tiles ------------------------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_of_every_tile(histill: Histill, slides: Path, tmp_path: Path) -> None:
    """0.6 um/px on a slide of 0.25: tiles of 20 px step by 15, and a map px is 2.4 px of the slide."""
    flags = ["--at", "0.6", "--tile", "20", "--overlap", "25%", "--least-tissue", "0%", "--images"]
    said = histill("slide", "tiles", slides / "s lide.tif", "--to", tmp_path / "t", *flags)
    assert said.code == 0
    expected = []
    for row in range(math.ceil((300 / 2.4 - 20) / 15) + 1):
        for column in range(math.ceil((420 / 2.4 - 20) / 15) + 1):
            left, top = round(column * 15 * 2.4), round(row * 15 * 2.4)
            right, bottom = round((column * 15 + 20) * 2.4), round((row * 15 + 20) * 2.4)
            expected.append([left, top, right - left, bottom - top, 20, 0.6])
    found = rows_of(tmp_path / "t")
    assert list(found[0]) == ["x", "y", "w", "h", "px", "mpp"]
    assert [[float(cell) for cell in row.values()] for row in found] == expected
    assert f"{len(expected)} tiles of 12 um" in said.out
    with open_slide(slides / "s lide.tif") as slide:
        for x, y, w, h, px, _ in expected[::7]:
            pixels = np.asarray(Image.open(tmp_path / "t" / "images" / f"{x}_{y}.png"))
            assert np.array_equal(pixels, slide.read_as(Region(int(x), int(y), int(w), int(h)), int(px), int(px)))
    assert len(list((tmp_path / "t" / "images").iterdir())) == len(expected)
    drawn = read_geojson(tmp_path / "t" / "tiles.geojson")
    assert [each.area.bounds for each in drawn] == [(x, y, x + w, y + h) for x, y, w, h, _, _ in expected]
    assert {each.object_type for each in drawn} == {"tile"}
    assert torn(tmp_path / "t") == []


def test_tiles_lie_on_tissue_within_regions_and_not_without(histill: Histill, slides: Path, tmp_path: Path) -> None:
    half = {"type": "Polygon", "coordinates": [[list(point) for point in shapely.box(0, 0, 210, 300).exterior.coords]]}
    (tmp_path / "half.json").write_text(json.dumps({"type": "Feature", "geometry": half, "properties": {}}))
    command = ["slide", "tiles", slides / "s lide.tif", "--at", "0.25", "--tile", "30", "--least-tissue", "50%"]
    found = {}
    for name in ("all", "within", "without"):
        flags = [] if name == "all" else [f"--{name}", tmp_path / "half.json"]
        assert histill(*command, "--to", tmp_path / name, *flags).code == 0
        found[name] = {(int(row["x"]), int(row["y"])) for row in rows_of(tmp_path / name)}
    with open_slide(slides / "s lide.tif") as slide:
        pink = {
            (x, y): float((slide.read_as(Region(x, y, 30, 30), 30, 30)[..., 1] < 215).mean())
            for x in range(0, 420, 30)
            for y in range(0, 300, 30)
        }
    assert {place for place, share in pink.items() if share > 0.7} <= found["all"]
    assert found["all"] <= {place for place, share in pink.items() if share > 0.3}
    assert found["within"] == {(x, y) for x, y in found["all"] if x < 210}
    assert found["without"] == {(x, y) for x, y in found["all"] if x >= 210}


def test_glass_has_no_tiles_and_says_why(histill: Histill, slides: Path, tmp_path: Path) -> None:
    said = histill("slide", "tiles", slides / "glass.tif", "--to", tmp_path / "t", "--mpp", "0.5", "--images")
    assert said.code == 0
    assert "0 tiles of 128 um (no pixel differs from the background)" in said.out
    assert rows_of(tmp_path / "t") == []
    assert len(read_geojson(tmp_path / "t" / "tiles.geojson")) == 0
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["tiles.csv", "tiles.geojson", "tissue.jpg"]


def test_the_same_tiles_are_the_same_bytes(histill: Histill, slides: Path, tmp_path: Path) -> None:
    for name in "ab":
        command = ["slide", "tiles", slides / "s lide.tif", "--to", tmp_path / name, "--tile", "100", "--images"]
        assert histill(*command).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_to_say(fails: Fails, tmp_path: Path) -> None:
    fails(2, "no slide", "slide", "info")
    fails(4, [str(tmp_path), "no slide"], "slide", "info", tmp_path)


@pytest.mark.parametrize("verb", ["info", "thumbnail", "tiles"])
def test_a_slide_that_is_not_there_or_torn(verb: str, fails: Fails, slides: Path, tmp_path: Path) -> None:
    to = [] if verb == "info" else ["--to", tmp_path / "new" / "a.png"]
    fails(4, ["no.svs", "no such file"], "slide", verb, slides / "no.svs", *to)
    fails(4, ["torn.svs", "cut off"], "slide", verb, slides / "torn.svs", *to)
    assert not (tmp_path / "new").exists()


def test_pixels_that_cannot_be_read(fails: Fails, data_root: Path, tmp_path: Path) -> None:
    for verb in ("thumbnail", "tiles"):
        path = data_root / "slides" / "unreadable_tiles.svs"
        fails(4, [str(path), "cannot be decoded"], "slide", verb, path, "--to", tmp_path / "new" / "a.png")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mpp", ["0", "-0.25", "nan", "352"])
def test_no_spacing(mpp: str, fails: Fails, slides: Path, tmp_path: Path) -> None:
    for verb, flag in (("info", "--mpp"), ("thumbnail", "--mpp"), ("tiles", "--mpp"), ("tiles", "--at")):
        to = [] if verb == "info" else ["--to", tmp_path / "new" / "a.png"]
        fails(2, flag, "slide", verb, slides / "s lide.tif", flag, mpp, *to)
    assert not (tmp_path / "new").exists()


def test_a_slide_without_spacing_has_no_tiles_but_a_picture(
    fails: Fails, histill: Histill, slides: Path, tmp_path: Path
) -> None:
    fails(4, ["glass.tif", "--mpp"], "slide", "tiles", slides / "glass.tif", "--to", tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert histill("slide", "thumbnail", slides / "glass.tif", "--to", tmp_path / "a.png").code == 0


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--tile", "0"], "--tile"),
        (["--overlap", "100%"], "overlap"),
        (["--overlap", "many"], "'many' is not a share"),
        (["--least-tissue", "-1%"], "'-1%' is not a share"),
    ],
)
def test_tiles_that_are_none(flags: list[str], part: str, fails: Fails, slides: Path, tmp_path: Path) -> None:
    fails(2, part, "slide", "tiles", slides / "s lide.tif", "--to", tmp_path / "t", *flags)


def test_regions_that_are_none(fails: Fails, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.geojson").write_text('{"type": "FeatureCollection", "features": [{')
    for name in ("torn.geojson", "nothing.geojson"):
        fails(4, name, "slide", "tiles", slides / "s lide.tif", "--to", tmp_path / "t", "--within", tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    message = "no regions for the slide s lide"
    fails(2, message, "slide", "tiles", slides / "s lide.tif", "--to", tmp_path / "t", "--without", tmp_path / "folder")


def test_pictures_that_are_none(fails: Fails, slides: Path, tmp_path: Path) -> None:
    command = ["slide", "thumbnail", slides / "s lide.tif", "--to"]
    fails(2, "ends in .png or .jpg", *command, tmp_path / "a.gif")
    fails(2, "--longest", *command, tmp_path / "a.png", "--longest", "0")
    (tmp_path / "file").write_text("mine")
    fails(7, "a file stands", *command, tmp_path / "file" / "a.png")
