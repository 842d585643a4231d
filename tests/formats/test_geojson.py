"""GeoJSON as other tools write it, and as nobody should."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from shapely import MultiPolygon, Polygon, box

from histill.core.errors import Exit, HistillError
from histill.formats import geojson
from histill.formats.geojson import read_geojson
from histill.formats.outlines import Outline, Outlines

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
BOW_TIE = [[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]
GEOMETRY = {"type": "Polygon", "coordinates": [SQUARE]}
LINE = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
POINT = {"type": "Point", "coordinates": [0, 0]}
AREA = Polygon(SQUARE)


def feature(geometry: Any = GEOMETRY, properties: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {} if properties is None else properties, **more}


def collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def read(tmp_path: Path, content: Any) -> Outlines:
    path = tmp_path / "a.geojson"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_geojson(path)


def refused(tmp_path: Path, content: Any, what: str, code: Exit = Exit.INPUT) -> HistillError:
    with pytest.raises(HistillError, match=what) as caught:
        read(tmp_path, content)
    assert caught.value.code == code
    assert str(tmp_path) in caught.value.subject
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("content", [collection(feature()), [feature()], feature(), GEOMETRY, [GEOMETRY]])
def test_collections_lists_features_and_geometries(
    tmp_path: Path, content: Any, indent: int | None, pack: bool
) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(content, indent=indent).encode() + b"\n"
    assert read(tmp_path, gzip.compress(data) if pack else data).items == (Outline(AREA),)


@pytest.mark.parametrize("content", [collection(), [], {"features": []}])
def test_nothing_in_it(tmp_path: Path, content: Any) -> None:
    assert read(tmp_path, content) == Outlines(())


def test_members_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    content = {"name": "x", "features": [feature(), feature()], "crs": {"type": "name"}, "type": "FeatureCollection"}
    assert len(read(tmp_path, content)) == 2


QUPATH_0_5 = {
    "objectType": "annotation",
    "name": "left one",
    "color": [1, 2, 3],
    "classification": {"name": "Tumor", "color": [200, 0, 0]},
    "isLocked": True,
    "measurements": {"Area": 1.5},
}


@pytest.mark.parametrize(
    ("properties", "more", "class_name", "object_type", "name"),
    [
        (QUPATH_0_5, {"id": "6c5f2b9e-8b60-4ac6-9a7c-111111111111"}, "Tumor", "annotation", "left one"),
        ({"objectType": "detection", "classification": None}, {}, None, "detection", None),
        ({"objectType": "cell"}, {"nucleusGeometry": GEOMETRY}, None, "cell", None),
        (
            {"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}},
            {},
            "Tumor: Positive",
            "annotation",
            None,
        ),
        # QuPath 0.3
        ({"object_type": "tile", "classification": {"name": "Stroma", "colorRGB": -1}}, {}, "Stroma", "tile", None),
        # QuPath 0.2
        ({"classification": {"name": "Other"}}, {"id": "PathDetectionObject"}, "Other", "detection", None),
        ({"isLocked": False, "measurements": []}, {"id": "PathAnnotationObject"}, None, "annotation", None),
        (
            {"classification": {"parentClass": {"name": "Tumor", "colorRGB": -1}, "name": "Positive", "colorRGB": -2}},
            {"id": "PathCellObject"},
            "Tumor: Positive",
            "cell",
            None,
        ),
        # TRIDENT
        ({"tissue_id": 3}, {}, "tissue", "annotation", "tissue 3"),
        # others
        ({"classification": "Tumor"}, {"id": 12}, "Tumor", "annotation", None),
        ({"classification": {"name": None}}, {}, None, "annotation", None),
        ({"classification": {}}, {}, None, "annotation", None),
        (None, {}, None, "annotation", None),
    ],
)
def test_what_tools_write(
    tmp_path: Path, properties: Any, more: Any, class_name: str | None, object_type: str, name: str | None
) -> None:
    content = collection(feature(GEOMETRY, properties, **more) | {"properties": properties})
    assert read(tmp_path, content).items == (Outline(AREA, class_name, object_type, name),)


def test_a_measurement_may_be_nan(tmp_path: Path) -> None:
    data = json.dumps(collection(feature(properties={"measurements": {"a": float("nan")}}))).encode()
    assert b"NaN" in data
    assert len(read(tmp_path, data)) == 1


@pytest.mark.parametrize(
    ("geometry", "area"),
    [
        (GEOMETRY | {"isEllipse": True, "plane": {"c": -1, "z": 0, "t": 0}}, AREA),
        ({"type": "Polygon", "coordinates": [SQUARE[:-1]]}, AREA),
        ({"type": "Polygon", "coordinates": [[[*point, 0.5] for point in SQUARE]]}, AREA),
        (
            {"type": "Polygon", "coordinates": [SQUARE, [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]]},
            Polygon(SQUARE, [box(1, 1, 2, 2).exterior]),
        ),
        (
            {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[9, 9], [9.5, 9], [9, 10], [9, 9]]]]},
            MultiPolygon([AREA, Polygon([(9, 9), (9.5, 9), (9, 10)])]),
        ),
        ({"type": "GeometryCollection", "geometries": [POINT, GEOMETRY, LINE]}, AREA),
    ],
)
def test_geometries(tmp_path: Path, geometry: Any, area: Any) -> None:
    found = read(tmp_path, [feature(geometry)])
    assert found[0].area.equals(area)
    assert found.notes == ()


def test_what_has_no_area_is_left_out_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, collection(feature(LINE), feature(), feature(POINT), feature(None), feature(LINE)))
    assert len(found) == 1
    assert found.notes == (
        "2 LineString left out, having no area: feature 1, 5",
        "1 Point left out, having no area: feature 3",
        "1 features without geometry left out, having no area: feature 4",
    )


def test_what_crosses_itself_is_repaired_and_noted(tmp_path: Path) -> None:
    twice = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[2, 0], [6, 0], [6, 4], [2, 4], [2, 0]]]]}
    found = read(tmp_path, [feature(), feature({"type": "Polygon", "coordinates": [BOW_TIE]}), feature(twice)])
    assert all(outline.area.is_valid for outline in found)
    assert [outline.area.area for outline in found] == [16, 8, 24]
    assert found.notes == ("2 polygons repaired that crossed themselves: feature 2, 3",)


def polygon_of(*points: Any) -> dict[str, Any]:
    return feature({"type": "Polygon", "coordinates": [list(points)]})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (7, "a feature is an object"),
        (feature([1]), "a geometry is an object"),
        (feature(properties=[1]), "properties are no object"),
        (feature(properties={"classification": 7}), "classification is no class"),
        ({"type": "Topology"}, "no GeoJSON geometry: Topology"),
        (feature({"type": "polygon", "coordinates": [SQUARE]}), "no GeoJSON geometry: polygon"),
        (feature({"type": ["Polygon"]}), "no GeoJSON geometry"),
        (feature({"type": "MultiPolygon", "coordinates": 3}), "no GeoJSON geometry: MultiPolygon"),
        (feature({"type": "Polygon"}), "no numbers"),
        (feature({"type": "Polygon", "coordinates": []}), "without a ring"),
        (feature({"type": "Polygon", "coordinates": SQUARE}), "no list of rings"),
        (feature({"type": "Polygon", "coordinates": [[]]}), "no list of rings"),
        (feature({"type": "GeometryCollection", "geometries": [3]}), "a geometry is an object"),
        (polygon_of([0, 0], [1, "x"], [1, 1]), "no numbers"),
        (polygon_of([0, 0], [1], [1, 1]), "no numbers"),
        (polygon_of([0, 0], [1, None], [1, 1]), "not finite"),
        (polygon_of([0, 0], [10**400, 0], [1, 1]), "no numbers"),
        (polygon_of([0, 0], [float("nan"), 0], [1, 1]), "not finite"),
        (polygon_of([0, 0], [float("inf"), 0], [1, 1]), "not finite"),
        (polygon_of([0, 0], [1e300, 0], [1, 1]), "not finite, or beyond"),
        (polygon_of([0, 0], [1, 1], [0, 0]), "fewer than three points"),
        (polygon_of([0, 0], [1, 1], [2, 2], [0, 0]), "encloses no area"),
    ],
)
def test_features_that_are_none_are_named_by_number(tmp_path: Path, wrong: Any, what: str) -> None:
    assert "feature 2" in refused(tmp_path, [feature(), wrong], what).subject


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no valid JSON"),
        (b"7", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"[1 2]", "a feature is an object"),
        (b'{"a" 1}', "expecting ':'"),
        (b'{"type":1 "a":2}', "expecting ','"),
        (b'{"type":1,}', "no valid JSON"),
        (json.dumps(collection(feature())).encode()[:-3], "no valid JSON"),
        (json.dumps([feature()]).encode() + b"x", "something after the end"),
        (b"[" + b"1" * 5000 + b"]", "too many digits"),
        (b"\xff\xfe[]", "not UTF-8"),
        (b"\x89PNG", "not UTF-8"),
        (gzip.compress(b"[]" * 999, mtime=0)[:-9], "cannot be unpacked"),
        (b"\x1f\x8bx", "cannot be unpacked"),
    ],
)
def test_files_that_are_no_geojson(tmp_path: Path, data: bytes, what: str) -> None:
    refused(tmp_path, data, what)


def test_a_fault_of_the_text_says_the_line(tmp_path: Path) -> None:
    text = ",\n".join(json.dumps(feature()) for _ in range(3))
    assert refused(tmp_path, f"[{text},\n{{]".encode(), "no valid JSON").subject.endswith("line 4, feature 4")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = json.dumps(collection(feature(properties=QUPATH_0_5))).encode()
    for length in range(0, len(data), 7):
        refused(tmp_path, data[:length], "no valid JSON")


def test_lists_nested_too_deep(tmp_path: Path) -> None:
    refused(tmp_path, b"[" * 100_000, "nested too deep", Exit.UNSAFE)
    deep: Any = GEOMETRY
    for _ in range(300):
        deep = {"type": "GeometryCollection", "geometries": [deep]}
    assert read(tmp_path, [feature(deep)])[0].area.equals(AREA)


def test_files_of_too_much_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps(collection(feature())).encode()
    monkeypatch.setattr(geojson, "MOST_BYTES", len(data) + 5)
    assert len(read(tmp_path, data)) == 1
    refused(tmp_path, data + b" " * 6, "more than", Exit.UNSAFE)
    refused(tmp_path, gzip.compress(data + b" " * 6), "more than", Exit.UNSAFE)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="no such file") as caught:
        read_geojson(tmp_path / "none.geojson")
    assert caught.value.code == Exit.INPUT
    with pytest.raises(HistillError, match="cannot be read"):
        read_geojson(tmp_path)
