"""histill predict on whole slides: what the flags do, and which are refused."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from findings import Fails, begin, look, map_of, rows
from PIL import Image
from scanned import shades, tissue, write_table
from small import Histill

from histill.core.labels import IGNORE
from histill.formats.maps import open_probabilities


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
