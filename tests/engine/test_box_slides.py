"""Objects on whole slides: each once, in level-0 px, wherever tiles meet."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finder import CARD, spots, trained
from numpy.typing import NDArray
from PIL import Image

from histill.core.boxes import read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.core.record import EMPTY, read_record
from histill.data.predicted import open_predictions
from histill.data.regions import Regions
from histill.engine.apply import Applied
from histill.engine.box_slides import BoxSlideSettings, find_on_slides
from histill.engine.run import Machine
from histill.formats.geojson import read_geojson

MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)
PLACES = [(100, 140, 140, 200), (236, 232, 280, 290), (240, 60, 270, 90), (350, 300, 392, 356)]


def slide_image(places: list[tuple[int, int, int, int]] = PLACES) -> NDArray[np.uint8]:
    """Stained tissue with dark spots on glass."""
    rng = np.random.default_rng(0)
    image = rng.normal(243, 1, (400, 520, 3))
    tissue = np.array([185.0, 110.0, 165.0]) + rng.normal(0, 12, (360, 440, 3))
    image[20:380, 30:470] = tissue
    for x0, y0, x1, y1 in places:
        image[y0:y1, x0:x1] = 25
    return image.clip(0, 255).astype(np.uint8)


def table(folder: Path, *images: NDArray[np.uint8], mpp: float | None = 0.5) -> Manifest:
    samples = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"slide {i}.png")
        samples.append(Sample(f"slide {i}", folder / f"slide {i}.png", patient=f"p{i}", mpp=mpp))
    return Manifest(tuple(samples), CARD, folder, "digest")


def find(made: Manifest, folder: Path, *, model: Any = None, regions: Any = (None, None), **settings: Any) -> Applied:
    plan = BoxSlideSettings(**{"batch_size": 4, **settings})
    return find_on_slides(
        model or trained(), made, folder, machine=MACHINE, settings=plan, within=regions[0], without=regions[1]
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def found(folder: Path) -> NDArray[np.float32]:
    corners = read_boxes(folder / rows(folder)[0]["boxes"], CARD.as_classes()).corners
    return corners[np.lexsort(corners.T[::-1])]


@pytest.mark.parametrize("side", [96, 160, 256])
def test_every_object_is_reported_once_wherever_tiles_meet(tmp_path: Path, side: int) -> None:
    # Looked at at 2 um/px, a quarter of level 0: tiles of 24, 40 and 64 px.
    find(table(tmp_path, slide_image()), tmp_path / "out", model=trained(side=side))
    assert np.abs(found(tmp_path / "out") - np.array(sorted(PLACES))).max() <= 4


def test_what_is_written(tmp_path: Path) -> None:
    find(table(tmp_path, slide_image()), tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    tissue = float(row["searched_mm2"])
    assert tissue == pytest.approx(360 * 440 * 0.25e-6, rel=0.1)
    assert (row["spot_count"], row["blot_count"]) == ("4", "0")
    assert float(row["spot_per_mm2"]) == pytest.approx(4 / tissue, rel=1e-4)
    with next((tmp_path / "out/objects").iterdir()).open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 4
    for each in listed:
        x0, y0, x1, y1, x, y = (float(each[name]) for name in ("x0", "y0", "x1", "y1", "centre_x", "centre_y"))
        assert (x, y) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.02)
        assert float(each["width_um"]) == pytest.approx((x1 - x0) / 2, abs=0.02)
        assert float(each["size_um"]) == pytest.approx((x1 - x0 + y1 - y0) / 4, abs=0.02)
    outlines = read_geojson(next((tmp_path / "out/geojson").iterdir()))
    assert sorted(outline.area.bounds for outline in outlines) == [
        tuple(map(float, box)) for box in found(tmp_path / "out")
    ]
    assert {(outline.class_name, outline.object_type) for outline in outlines} == {("spot", "detection")}
    first = json.loads(next((tmp_path / "out/geojson").iterdir()).read_bytes())["features"][0]
    assert "score" in str(first["properties"]["measurements"])
    assert len(list((tmp_path / "out/pictures").iterdir())) == 2


def test_begun_again_nothing_is_done_and_batches_change_nothing(tmp_path: Path) -> None:
    made = table(tmp_path, slide_image())
    find(made, tmp_path / "a")
    assert find(made, tmp_path / "a").reused == 1
    find(made, tmp_path / "b", batch_size=3)
    assert found(tmp_path / "a").tolist() == found(tmp_path / "b").tolist()


def region(path: Path, x0: float, y0: float, x1: float, y1: float) -> Regions:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return Regions(path)


def test_only_objects_whose_middle_lies_in_the_regions_and_their_tissue(tmp_path: Path) -> None:
    made = table(tmp_path, slide_image())
    left, corner = region(tmp_path / "l.geojson", 0, 0, 260, 400), region(tmp_path / "c.geojson", 0, 0, 200, 400)
    find(made, tmp_path / "within", regions=(left, None))
    find(made, tmp_path / "both", regions=(left, corner))
    assert len(found(tmp_path / "within")) == 3
    assert len(found(tmp_path / "both")) == 2
    areas = [float(rows(tmp_path / name)[0]["searched_mm2"]) for name in ("within", "both")]
    assert areas == pytest.approx([360 * 230 * 0.25e-6, 360 * 60 * 0.25e-6], rel=0.15)


def test_a_slide_of_glass_is_empty(tmp_path: Path) -> None:
    made = table(tmp_path, spots(400, 520, []))
    assert list(find(made, tmp_path / "out").empty) == ["slide 0"]
    record = read_record(open_predictions(tmp_path / "out").record_path(made.samples[0]))
    assert record is not None
    assert record.status == EMPTY
    assert rows(tmp_path / "out")[0]["spot_per_mm2"] == "0.0"


def test_a_slide_of_glass_is_empty_where_stains_are_normalised_too(tmp_path: Path) -> None:
    made = table(tmp_path, np.full((260, 300, 3), 240, np.uint8))
    for way in ("macenko", "reinhard"):
        assert list(find(made, tmp_path / way, normalise=way).empty) == ["slide 0"]


def test_without_a_spacing_nobody_knows_how_to_look(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="had no spacing") as caught:
        find(table(tmp_path, slide_image()), tmp_path / "out", model=trained(mpp=None))
    assert caught.value.code == Exit.USAGE
    assert "4 times the spacing" in caught.value.mend
    find(table(tmp_path, slide_image()), tmp_path / "out", model=trained(mpp=None), mpp=2.0)
    assert len(found(tmp_path / "out")) == 4
