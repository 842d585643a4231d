"""Tiles as QuPath's rectangles: what stands in the file, and that the house reads it again."""

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely import box

from histill.core.errors import Exit, HistillError
from histill.core.labels import PALETTE
from histill.formats import tiles
from histill.formats.geojson import read_geojson
from histill.formats.tiles import write_tiles

COORDS = np.array([[0, 0], [256, 0], [-100, 99_999]], np.int64)


def written(path: Path, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    count = write_tiles(path, *arguments, slide="s", **options)
    found = json.loads(path.read_bytes())
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == count
    return found["features"]


def test_a_tile_as_qupath_has_it(tmp_path: Path) -> None:
    measurements = {
        "attention": np.array([0.1, 1e-7, 0.5], np.float32),
        "cluster": np.array([3, 0, 1]),
        "score": np.array([0.1, 0.2, 1 / 3]),
    }
    names = ["kept", "cluster 0", None]
    found = written(tmp_path / "a.geojson", COORDS, 256, measurements, names, colours={"cluster 0": (1, 2, 3)})
    assert [each.pop("id") for each in found] == [str(uuid.UUID(each)) for each in ids(tmp_path / "a.geojson")]
    assert found[0] == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": "kept", "color": list(PALETTE[0])},
            "isLocked": False,
            # The shortest decimals of a float32.
            "measurements": {"attention": 0.1, "cluster": 3, "score": 0.1},
        },
    }
    assert found[1]["properties"]["classification"] == {"name": "cluster 0", "color": [1, 2, 3]}
    assert found[1]["properties"]["measurements"] == {"attention": 1e-7, "cluster": 0, "score": 0.2}
    assert found[2]["geometry"]["coordinates"][0][2] == [156, 100_255]
    assert found[2]["properties"] == {
        "objectType": "detection",
        "isLocked": False,
        "measurements": {"attention": 0.5, "cluster": 1, "score": 1 / 3},
    }


def ids(path: Path) -> list[str]:
    return [each["id"] for each in json.loads(path.read_bytes())["features"]]


def test_without_classes_and_measurements(tmp_path: Path) -> None:
    found = written(tmp_path / "a.geojson", COORDS, 256, {}, None)
    assert [each["properties"] for each in found] == [
        {"objectType": "detection", "isLocked": False, "measurements": {}}
    ] * 3


def test_numbers_keep_to_their_tiles_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coords = np.stack([np.arange(10) * 7, np.arange(10) % 3], axis=1)
    whole, parts = tmp_path / "whole.geojson", tmp_path / "parts.geojson"
    arguments = coords, 7, {"index": np.arange(10)}, [str(i % 2) for i in range(10)]
    found = written(whole, *arguments)
    assert [each["properties"]["measurements"]["index"] for each in found] == list(range(10))
    assert [each["geometry"]["coordinates"][0][0] for each in found] == coords.tolist()
    monkeypatch.setattr(tiles, "AT_ONCE", 3)
    written(parts, *arguments)
    assert parts.read_bytes() == whole.read_bytes()


def test_tiles_at_one_place_have_ids_of_their_own(tmp_path: Path) -> None:
    # Some would be one place if x and y were put together carelessly.
    coords = np.array([[5, 5], [5, 5], [10, 0], [5, 5], [1, -(1 << 30)], [0, 1 << 30]], np.int64)
    found = written(tmp_path / "a.geojson", coords, 9, {}, None)
    assert len({each["id"] for each in found}) == 6
    assert [each["properties"].get("name") for each in found] == [None, "tile 1", None, "tile 3", None, None]


def test_read_again_they_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    written(path, COORDS, 256, {}, ["kept", None, "kept"])
    found = read_geojson(path)
    assert found.notes == ()
    assert [each.class_name for each in found] == ["kept", None, "kept"]
    assert {each.object_type for each in found} == {"detection"}
    for outline, (x, y) in zip(found, COORDS.tolist(), strict=True):
        assert outline.area.equals(box(x, y, x + 256, y + 256))


def test_packed_it_says_the_same_and_always_the_same(tmp_path: Path) -> None:
    arguments = COORDS, 256, {"index": np.arange(3)}, None
    paths = [tmp_path / name for name in ("a.geojson", "b.geojson.gz", "c.geojson.gz")]
    assert [write_tiles(path, *arguments, slide="s") for path in paths] == [3, 3, 3]
    plain, one, other = (path.read_bytes() for path in paths)
    assert gzip.decompress(one) == plain
    assert one == other
    write_tiles(paths[0], *arguments, slide="another")
    assert not set(ids(paths[0])) & {each["id"] for each in json.loads(plain)["features"]}


def test_no_tiles(tmp_path: Path) -> None:
    assert written(tmp_path / "a.geojson", COORDS[:0], 256, {"index": np.arange(0)}, []) == []


def test_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    with pytest.raises(HistillError, match="'attention' of tile 1 is nan") as caught:
        write_tiles(path, COORDS, 256, {"attention": np.array([1, np.nan, np.inf])}, None, slide="s")
    assert caught.value.code == Exit.NUMBERS
    with pytest.raises(ValueError, match="'attention'"):
        write_tiles(path, COORDS, 256, {"attention": np.ones(2)}, None, slide="s")
    with pytest.raises(ValueError, match="2 classes for 3 tiles"):
        write_tiles(path, COORDS, 256, {}, ["a", "b"], slide="s")
    assert not path.exists()
