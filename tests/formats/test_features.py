"""QuPath's GeoJSON as it is written: exact bytes, valid polygons, and the same map when drawn again."""

import gzip
import json
import uuid
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from shapely import MultiPolygon, Polygon, box

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import IGNORE, Classes
from histill.formats import features
from histill.formats.features import NAMESPACE, Feature, label_map_features, outline_feature, write_features
from histill.formats.geojson import read_geojson
from histill.formats.outlines import Outline
from histill.formats.raster import rasterise

CLASSES = Classes(("tumour", "stroma"), ((200, 0, 0), (0, 150, 0)))
maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.sampled_from([0, 1, IGNORE]))
# um per level-0 px, um per map px: scales 1, 2.0016, 0.501 and 3.
SPACINGS = ((0.5, 0.5), (0.25, 0.5004), (0.499, 0.25), (0.25, 0.75))


def frame_of(shape: tuple[int, int], level0_mpp: float = 0.5, mpp: float = 0.5) -> Frame:
    """The frame of a slide that a map just covers."""
    height, width = (int(side * mpp / level0_mpp) for side in shape)
    made = Frame(width, height, level0_mpp, mpp)
    assert made.shape == shape
    return made


def written(path: Path, labels: np.ndarray, frame: Frame, **options: Any) -> dict[str, Any]:
    write_features(path, label_map_features([labels], CLASSES, frame, **options), slide="s")
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes())


def test_a_map_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    labels = np.array([[0, 0, 0], [0, 1, 0], [0, 0, IGNORE]], np.uint8)
    frame = Frame(7, 7, 0.2, 0.5)
    assert write_features(path, label_map_features([labels[:1], labels[1:]], CLASSES, frame), slide="s") == 2
    lines = path.read_text().splitlines()
    assert lines[0] == '{"type":"FeatureCollection","features":['
    assert lines[3] == "]}"
    rings = "[[0,0],[7.5,0],[7.5,5],[5,5],[5,7.5],[0,7.5],[0,0]],[[5,2.5],[2.5,2.5],[2.5,5],[5,5],[5,2.5]]"
    properties = '"objectType":"annotation","name":"tumour","classification":{"name":"tumour","color":[200,0,0]}'
    head = "{" + properties + ',"isLocked":false,'
    identity = uuid.uuid5(NAMESPACE, f"s\n{head}\nPolygon\n[{rings}]")
    assert lines[1] == (
        f'{{"type":"Feature","id":"{identity}","geometry":{{"type":"Polygon","coordinates":[{rings}]}},'
        f'"properties":{head}"measurements":{{"area um2":1.75,"area mm2":1.75e-06,"area px":7}}}}}},'
    )
    assert json.loads(lines[2])["properties"]["measurements"] == {"area um2": 0.25, "area mm2": 2.5e-7, "area px": 1}


@settings(max_examples=60)
@given(labels=maps, spacings=st.sampled_from(SPACINGS), block=st.integers(1, 30))
def test_drawn_again_it_is_the_same_map(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, spacings: tuple[float, float], block: int
) -> None:
    path = tmp_path_factory.mktemp("features") / "a.geojson"
    # One pixel of a map finer than the slide is less than a pixel of it.
    labels = np.tile(labels, (2, 2)) if spacings[1] < spacings[0] else labels
    height, width = labels.shape
    scale = spacings[1] / spacings[0]
    frame = Frame(max(1, int(width * scale)), max(1, int(height * scale)), *spacings)
    labels = np.ascontiguousarray(labels[: frame.shape[0], : frame.shape[1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BLOCK", block)
        collection = written(path, labels, frame)
    outlines = read_geojson(path)
    assert outlines.notes == ()
    back = rasterise(outlines, [CLASSES.index(str(outline.class_name)) for outline in outlines], frame)
    np.testing.assert_array_equal(back, labels)
    assert len({uuid.UUID(feature["id"]) for feature in collection["features"]}) == len(outlines)
    for feature, outline in zip(collection["features"], outlines, strict=True):
        assert outline.area.is_valid
        px = feature["properties"]["measurements"]["area px"]
        assert outline.area.area / frame.scale**2 == pytest.approx(px, rel=1e-3)
        exterior, *holes = feature["geometry"]["coordinates"]
        assert exterior[0] == exterior[-1]
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


def test_areas_agree_with_the_map_and_its_spacing(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 2, (50, 60)).astype(np.uint8)
    found = written(tmp_path / "a.geojson", labels, frame_of((50, 60), 0.25, 0.5))["features"]
    for index, name in enumerate(CLASSES.names):
        here = [each["properties"] for each in found if each["properties"]["name"] == name]
        measured = {unit: sum(each["measurements"][f"area {unit}"] for each in here) for unit in ("px", "um2", "mm2")}
        px = int((labels == index).sum())
        assert measured == {"px": px, "um2": pytest.approx(px * 0.25), "mm2": pytest.approx(px * 0.25e-6)}


def test_the_same_map_gives_the_same_bytes_packed_or_not(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (20, 20)).astype(np.uint8)
    frame = frame_of((20, 20))
    for name in ("a.geojson", "A.GeoJSON.GZ", "b.geojson", "other name.geojson.gz"):
        written(tmp_path / name, labels, frame)
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    packed = (tmp_path / "A.GeoJSON.GZ").read_bytes()
    assert packed == (tmp_path / "other name.geojson.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # neither a name nor a time
    assert gzip.decompress(packed) == (tmp_path / "a.geojson").read_bytes()


def test_ids_tell_slides_classes_and_places_apart(tmp_path: Path) -> None:
    labels = np.array([[0, IGNORE, 0, 1]], np.uint8)
    identities = set()
    for slide, spacing in product(("a", "b"), (0.5, 1)):
        path = tmp_path / "a.geojson"
        shape = frame_of((1, 4), 0.5, spacing)
        write_features(path, label_map_features([labels], CLASSES, shape), slide=slide)
        identities |= {feature["id"] for feature in json.loads(path.read_bytes())["features"]}
    assert len(identities) == 4 * 3
    assert all(uuid.UUID(identity).version == 5 for identity in identities)


def test_classes_are_left_out_and_objects_may_be_detections(tmp_path: Path) -> None:
    labels = np.array([[0, 1]], np.uint8)
    options = {"left_out": ["tumour"], "object_type": "detection"}
    (feature,) = written(tmp_path / "a.geojson.gz", labels, frame_of((1, 2)), **options)["features"]
    assert feature["properties"]["objectType"] == "detection"
    assert feature["properties"]["classification"] == {"name": "stroma", "color": [0, 150, 0]}


def test_no_features_are_a_collection_too(tmp_path: Path) -> None:
    labels = np.full((2, 3), IGNORE, np.uint8)
    assert written(tmp_path / "a.geojson", labels, frame_of((2, 3))) == {"type": "FeatureCollection", "features": []}


def test_a_label_that_is_no_class(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    with pytest.raises(HistillError, match="label 2 is none of the 2 classes") as caught:
        written(path, np.array([[0, 2]], np.uint8), frame_of((1, 2)))
    assert caught.value.code == Exit.INPUT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (3, 4)])
def test_a_map_of_another_shape(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not of the frame's shape 3 x 3"):
        list(label_map_features([np.zeros(shape, np.uint8)], CLASSES, frame_of((3, 3))))


def test_pixels_too_small_to_tell_apart() -> None:
    with pytest.raises(ValueError, match="fall together"):
        next(label_map_features([], CLASSES, Frame(1, 1, 1, 0.001)))


def one(path: Path, feature: Feature) -> dict[str, Any]:
    write_features(path, [feature], slide="a slide \udcff")
    return json.loads(path.read_bytes())["features"][0]


def test_an_outline_as_a_feature(tmp_path: Path) -> None:
    outline = Outline(box(0.12345, 0, 2, 1), "gl\u00f6m", "detection", "no. 7")
    feature = one(
        tmp_path / "a.geojson", outline_feature(outline, (1, 2, 3), locked=True, measurements={"probability": 0.5})
    )
    assert feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert sorted(map(tuple, ring[1:])) == [(0.123, 0), (0.123, 1), (2, 0), (2, 1)]
    assert ring[0] == ring[-1]
    assert shapely.LinearRing(ring).is_ccw
    assert feature["properties"] == {
        "objectType": "detection",
        "name": "no. 7",
        "classification": {"name": "gl\u00f6m", "color": [1, 2, 3]},
        "isLocked": True,
        "measurements": {"probability": 0.5},
    }


def test_what_an_outline_does_not_have_is_not_written_as_null(tmp_path: Path) -> None:
    feature = one(tmp_path / "a.geojson", outline_feature(Outline(box(0, 0, 1, 1)), (0, 0, 0)))
    assert feature["properties"] == {"objectType": "annotation", "isLocked": False, "measurements": {}}


def test_parts_and_holes_survive(tmp_path: Path) -> None:
    area = MultiPolygon([Polygon(box(0, 0, 9, 9).exterior, [box(1, 1, 2, 2).exterior]), box(20, 0, 21, 1)])
    path = tmp_path / "a.geojson"
    assert one(path, outline_feature(Outline(area), (0, 0, 0)))["geometry"]["type"] == "MultiPolygon"
    assert read_geojson(path)[0].area.equals(area)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0, 0.02)] * 2), min_size=3, max_size=9))
def test_rounding_leaves_polygons_valid(points: list[tuple[float, float]]) -> None:
    area = shapely.convex_hull(shapely.MultiPoint(points)).buffer(0.01).difference(box(0.004, 0.004, 0.0052, 0.0061))
    feature = outline_feature(Outline(area), (0, 0, 0))
    text = json.dumps({"type": feature.kind, "coordinates": json.loads(feature.coordinates)})
    assert shapely.from_geojson(text).is_valid
    coordinates = shapely.get_coordinates(shapely.from_geojson(text))
    np.testing.assert_array_equal(coordinates, np.round(coordinates, 3))


def test_an_outline_too_small() -> None:
    with pytest.raises(ValueError, match="too small"):
        outline_feature(Outline(box(0, 0, 1e-4, 1e-4)), (0, 0, 0))


def test_no_measurement_is_nan(tmp_path: Path) -> None:
    feature = outline_feature(Outline(box(0, 0, 1, 1)), (0, 0, 0), measurements={"p": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        one(tmp_path / "a.geojson", feature)
    assert list(tmp_path.iterdir()) == []
