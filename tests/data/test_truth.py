"""What is true of a slide: outlines and label maps, at any spacing, against slow and obvious versions."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shapely import Polygon, box

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import IGNORE, Classes
from histill.core.masks import label_png
from histill.data import images, truth
from histill.data.truth import DrawnTruth, MappedTruth, class_of, nearest, open_truth, read_outlines
from histill.formats.outlines import Outline
from histill.formats.pyramid import new_labels

CARD = DatasetCard(classes=("tumour", "gland", "stroma"))
WITH_BACKGROUND = DatasetCard(classes=("tumour", "rest"), background="rest")
MAP = np.random.default_rng(0).integers(0, 3, (60, 80), np.uint8)


class Held:
    """A label map in memory."""

    mpp, classes = None, None

    def __init__(self, labels: np.ndarray) -> None:
        self.labels, self.shape, self.largest = labels, labels.shape, 0

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        height, width = self.shape
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        self.largest = max(self.largest, w * h)
        return self.labels[y : y + h, x : x + w]

    def close(self) -> None:
        pass


def tiff(path: Path, labels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, labels, tile=(16, 16), compression="zlib", metadata=None, **options)
    return path


def geojson(path: Path, *features: tuple[str | None, Sequence[tuple[float, float]]], kind: str = "annotation") -> Path:
    """As QuPath writes it."""
    found = [
        {
            "type": "Feature",
            "id": f"8dbeb8e8-0000-4000-8000-{number:012}",
            "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in (*points, points[0])]]},
            "properties": {
                "objectType": kind,
                **({"classification": {"name": name, "color": [200, 0, 0]}} if name else {}),
                "isLocked": False,
            },
        }
        for number, (name, points) in enumerate(features)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


def square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def failing(make: object, *arguments: object) -> HistillError:
    with pytest.raises(HistillError) as caught:
        make(*arguments)  # type: ignore[operator]
    assert caught.value.subject
    assert caught.value.mend
    return caught.value


# --- nearest ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 9), st.floats(0.5, 5), st.integers(1, 400), st.integers(0, 9)
)
def test_nearest_is_the_pixel_under_the_centre(h: int, w: int, scale: float, mpp: float, most: int, top: int) -> None:
    held = Held(np.random.default_rng(h * w).integers(0, 256, (h, w), np.uint8))
    frame = Frame(max(1, int(w * scale)), max(1, int(h * scale)), 1.0, mpp)
    rows = frame.shape[0] - top
    if rows < 1:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth, "MOST_AT_ONCE", most)
        found = nearest(held, scale, frame, top, rows)
    for y in range(rows):
        for x in range(frame.shape[1]):
            at_y, at_x = int((top + y + 0.5) * (mpp / scale)), int((x + 0.5) * (mpp / scale))
            assert found[y, x] == held.labels[min(at_y, h - 1), min(at_x, w - 1)]
    # However much is asked for, memory stays near the bound; one row is always read.
    assert held.largest <= max(most, w) + 2 * w * max(1, mpp / scale)


# --- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tif", "a.png", "indexed.png", "a.bmp"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_maps_at_level_0_or_smaller(name: str, factor: int, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.tif":
        tiff(path, MAP)
    elif name == "indexed.png":
        path.write_bytes(label_png(MAP, CARD.as_classes()))
    else:
        Image.fromarray(MAP).save(path)
    # A slide of odd sides, rounded up or down in its map.
    for width, height in ((80 * factor, 60 * factor), (80 * factor - factor // 2, 60 * factor + factor // 2)):
        with open_truth(path, CARD, (width, height)) as found:
            frame = Frame(width, height, 0.25, 0.25 * factor)
            h, w = min(60, frame.shape[0]), min(80, frame.shape[1])
            np.testing.assert_array_equal(found.band(frame, 0, h)[:, :w], MAP[:h, :w])
            np.testing.assert_array_equal(found.band(frame, 7, 5)[:, :w], MAP[7:12, :w])


def test_a_map_says_by_which_factor_it_is_smaller(tmp_path: Path) -> None:
    # 7301 px by 7.3 are 1001, and 4003 are 549 after rounding up, by which the factor would be 7.2937 or 7.2914.
    width, height = 7301, 4003
    frame = Frame(width, height, 0.25, 0.25 * 7.3)
    labels = np.random.default_rng(1).integers(0, 3, frame.shape, np.uint8)
    path = tmp_path / "a.ome.tif"
    with new_labels(path, shape=frame.shape, mpp=frame.mpp, classes=CARD.as_classes()) as writer:
        writer.add(labels)
    with MappedTruth(path, CARD, (width, height)) as found:
        np.testing.assert_array_equal(found.band(frame, 0, frame.shape[0]), labels)
        at_y, at_x = (np.floor((np.arange(side) + 0.5) / 7.3).astype(int) for side in (height, width))
        np.testing.assert_array_equal(
            found.band(Frame(width, height, 0.25, 0.25), 3900, 100), labels[at_y[3900:4000]][:, at_x]
        )


def test_values_mean_what_the_card_says(tmp_path: Path) -> None:
    card = DatasetCard(classes=("tumour", "rest"), mask_values={"255": "tumour", "0": "rest", "3": "ignore"})
    values = np.where(MAP == 0, 255, np.where(MAP == 1, 0, 3)).astype(np.uint8)
    expected = np.where(MAP == 0, 0, np.where(MAP == 1, 1, IGNORE))
    frame = Frame(80, 60, 0.5, 0.5)
    Image.fromarray(values).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tiff(tmp_path / "a.tif", values)):
        with open_truth(path, card, (80, 60)) as found:
            np.testing.assert_array_equal(found.band(frame, 0, 60), expected)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_a_value_without_meaning_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    tiff(path, MAP + 1) if suffix == "tif" else Image.fromarray(MAP + 1).save(path)

    def read() -> None:
        with open_truth(path, CARD, (80, 60)) as found:
            found.band(Frame(80, 60, 1, 1), 0, 60)

    assert "the mask holds the value 3" in failing(read).what


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_black_and_white_alone_could_mean_two_things(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.where(MAP == 0, 0, 255).astype(np.uint8)
    tiff(path, values) if suffix == "tif" else Image.fromarray(values).save(path)

    def read() -> None:
        with open_truth(path, CARD, (80, 60)) as found:
            for top in (0, 20, 40):
                found.band(Frame(80, 60, 1, 1), top, 20)

    error = failing(read)
    assert "0 and 255 alone" in error.what
    assert "mask_values" in error.mend


def test_nothing_known_in_our_own_map_is_not_ambiguous(tmp_path: Path) -> None:
    labels = np.where(MAP == 0, 0, IGNORE).astype(np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    with new_labels(tmp_path / "a.ome.tif", shape=labels.shape, mpp=1.0, classes=CARD.as_classes()) as writer:
        writer.add(labels)
    with MappedTruth(tmp_path / "a.ome.tif", CARD, (1600, 1200)) as found:
        np.testing.assert_array_equal(found.band(Frame(1600, 1200, 1, 1), 0, 1200), labels)


def test_a_map_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    labels = MAP.repeat(20, axis=0).repeat(20, axis=1)
    with new_labels(path, shape=labels.shape, mpp=1.0, classes=Classes(("gland", "tumour", "stroma"))) as writer:
        writer.add(labels)
    error = failing(MappedTruth, path, CARD, (1600, 1200))
    assert error.what == "the mask's classes are gland, tumour, stroma; the table's tumour, gland, stroma"
    said = CARD.model_copy(update={"mask_values": {"0": "gland", "1": "tumour", "2": "stroma", "255": "ignore"}})
    with MappedTruth(path, said, (1600, 1200)) as found:
        swapped = np.array([1, 0, 2], np.uint8)[labels]
        np.testing.assert_array_equal(found.band(Frame(1600, 1200, 1, 1), 0, 1200), swapped)


@pytest.mark.parametrize("size", [(60, 80), (40, 30), (80, 70), (160, 116), (90, 60)])
def test_a_map_of_another_shape_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(MAP).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tiff(tmp_path / "a.tif", MAP)):
        error = failing(MappedTruth, path, CARD, size)
        assert error.code == Exit.INPUT
        assert f"the mask is 80 x 60 pixels, the slide {size[0]} x {size[1]}" in error.what


def test_maps_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(open_truth, tmp_path / "none.png", CARD, (80, 60)).code == Exit.INPUT
    assert failing(open_truth, tmp_path / "none.tif", CARD, (80, 60)).code == Exit.INPUT
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([MAP] * 3)).save(path)
    assert "not 8-bit indices" in failing(open_truth, path, CARD, (80, 60)).what
    Image.fromarray(MAP).save(path)
    monkeypatch.setattr(images, "MOST_PIXELS", 4799)
    error = failing(open_truth, path, CARD, (80, 60))
    assert (error.code, error.subject) == (Exit.UNSAFE, str(path))
    assert "TIFF" in error.mend
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:300])
    assert failing(open_truth, path, CARD, (80, 60)).code == Exit.INPUT


# --- outlines ---------------------------------------------------------------------------------------------------------


def test_outlines_on_a_frame(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", ("tumour", square(10, 20, 30)), ("Stroma", square(60, 0, 8)))
    expected = np.full((60, 80), IGNORE, np.uint8)
    expected[20:50, 10:40], expected[0:8, 60:68] = 0, 2
    with open_truth(path, CARD, (80, 60)) as found:
        frame = Frame(80, 60, 0.5, 0.5)
        np.testing.assert_array_equal(found.band(frame, 0, 60), expected)
        np.testing.assert_array_equal(found.band(frame, 15, 30), expected[15:45])
        # Another frame of the same slide, and back.
        np.testing.assert_array_equal(found.band(Frame(80, 60, 0.5, 1.0), 0, 30), expected[1::2, 1::2])
        np.testing.assert_array_equal(found.band(frame, 0, 60), expected)


def test_what_no_outline_covers_is_background_where_there_is_one(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", ("tumour", square(10, 20, 30)), ("Ignore*", square(60, 0, 8)))
    found = DrawnTruth(path, WITH_BACKGROUND).band(Frame(80, 60, 1, 1), 0, 60)
    assert np.bincount(found.ravel(), minlength=256)[[0, 1, IGNORE]].tolist() == [900, 4800 - 964, 64]
    empty = DrawnTruth(path, WITH_BACKGROUND, ()).band(Frame(80, 60, 1, 1), 0, 60)
    assert (empty == 1).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_of_two_outlines_counts(turned: bool, tmp_path: Path) -> None:
    features = [("tumour", square(0, 0, 40)), ("gland", square(10, 10, 10)), ("stroma", square(12, 12, 4))]
    path = geojson(tmp_path / "a.geojson", *(features[::-1] if turned else features))
    found = DrawnTruth(path, CARD).band(Frame(40, 40, 1, 1), 0, 40)
    assert np.bincount(found.ravel()).tolist() == [1500, 84, 16]
    assert found[13, 13] == 2


def test_asap_outlines_and_their_holes(tmp_path: Path) -> None:
    def drawn(group: str, points: Sequence[tuple[float, float]]) -> str:
        corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
        return f'<Annotation Name="A" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>{corners}</Coordinates></Annotation>'  # noqa: E501

    path = tmp_path / "tumor_001.xml"
    text = drawn("_0", square(10, 10, 30)) + drawn("_2", square(20, 20, 10))
    path.write_text(f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>')
    card = DatasetCard(classes=("tumor", "normal"), background="normal")
    with open_truth(path, card, (60, 60)) as found:
        labels = found.band(Frame(60, 60, 1, 1), 0, 60)
    assert (labels[10:40, 10:40] == 0).sum() == (labels == 0).sum() == 800
    assert (labels[20:30, 20:30] == 1).all()


def test_cells_say_nothing_of_areas(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", ("tumour", square(10, 20, 30)))
    cells = geojson(tmp_path / "cells.geojson", ("positive", square(12, 22, 3)), kind="cell")
    both = json.loads(path.read_text())
    both["features"] += json.loads(cells.read_text())["features"]
    path.write_text(json.dumps(both))
    found = read_outlines(path)
    assert [outline.class_name for outline in found] == ["tumour"]
    assert found.notes == ("1 cells, tiles or cores left out: annotations say what is where",)


@pytest.mark.parametrize(
    ("name", "index"),
    [("tumour", 0), ("Tumour", 0), (" GLAND ", 1), ("ignore", IGNORE), ("Ignore*", IGNORE)],
)
def test_the_class_of_an_outline(name: str, index: int) -> None:
    assert class_of(Outline(box(0, 0, 1, 1), name), CARD, Path("a.xml")) == index


def test_case_counts_where_classes_differ_in_nothing_else() -> None:
    card = DatasetCard(classes=("a", "A", "Ignore"))
    assert [class_of(Outline(box(0, 0, 1, 1), name), card, Path("a.xml")) for name in ("a", "A", "ignore")] == [0, 1, 2]


@pytest.mark.parametrize(("name", "said"), [("necrosis", "necrosis"), (None, "none"), ("", "none")])
def test_an_unknown_class_is_refused(name: str | None, said: str) -> None:
    error = failing(class_of, Outline(Polygon(square(0, 0, 1)), name), CARD, Path("a.xml"))
    assert (error.code, error.subject) == (Exit.USAGE, "a.xml")
    assert error.what == f"an outline is of class '{said}', which is not one of tumour, gland, stroma"


def test_bad_outline_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "cc">]><ASAP_Annotations>&b;</ASAP_Annotations>')
    assert failing(open_truth, path, CARD, (8, 8)).code == Exit.UNSAFE
    for name in ("b.geojson", "b.json", "b.xml"):
        (tmp_path / name).write_bytes(b"")
        assert failing(open_truth, tmp_path / name, CARD, (8, 8)).code == Exit.INPUT


# --- windows ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(-30, 90),
    st.integers(-30, 70),
    st.integers(1, 100),
    st.integers(1, 90),
    st.sampled_from([0.5, 1.0, 2.0, 3.3]),
    st.integers(0, 1000),
)
def test_a_window_is_a_part_of_the_whole(x: int, y: int, w: int, h: int, mpp: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    names = ("tumour", "gland", "stroma")
    outlines = [Outline(box(5, 5, 50, 55), "tumour"), Outline(box(20, 30, 79, 60), "gland")]
    for number in range(int(random.integers(0, 9))):
        ring = random.uniform(-20, 100, (2, 1, 2)) + random.uniform(-30, 30, (1, int(random.integers(3, 30)), 2))
        area = shapely.difference(*(shapely.convex_hull(shapely.multipoints(each)) for each in ring))
        if area.area > 0:
            outlines.append(Outline(area, names[number % 3]))
    drawn = DrawnTruth(Path("a"), CARD, outlines)
    frame = Frame(80, 60, 1.0, mpp)
    height, width = frame.shape
    wide = np.full((height + 600, width + 600), IGNORE, np.uint8)
    wide[300 : 300 + height, 300 : 300 + width] = drawn.band(frame, 0, height)
    found = drawn.window(frame, x, y, w, h)
    np.testing.assert_array_equal(found, wide[300 + y : 300 + y + h, 300 + x : 300 + x + w])
