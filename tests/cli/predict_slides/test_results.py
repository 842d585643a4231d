"""histill predict on whole slides: what comes out, the same each time."""

import json
import uuid
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from findings import IDS, NAMES, begin, labels_of, look, map_of, rows, same_bytes
from PIL import Image
from scanned import CLASSES, MPP, shades
from small import Histill, torn, tree

from histill import methods
from histill.core.labels import IGNORE
from histill.core.record import read_record
from histill.formats.geojson import read_geojson
from histill.formats.maps import open_probabilities


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
