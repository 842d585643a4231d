"""Whole slides: the stitched map, what is written of it, and what becomes of bad slides."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from histill.core.card import DatasetCard
from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest, Sample
from histill.core.record import EMPTY, QUARANTINED, read_record
from histill.data.predicted import open_predictions
from histill.data.tiles import TileBatch
from histill.engine import tiled
from histill.engine.method import Card
from histill.engine.run import Machine, Run
from histill.engine.slides import SlideSettings, apply_to_slides
from histill.engine.tile_method import TileMethod
from histill.engine.training import Trained
from histill.formats.geojson import read_geojson
from histill.formats.maps import open_labels, open_probabilities

MACHINE = Machine(accelerator="cpu", precision="float32")
MPP = 0.5
SIDE = 64


class Dark(TileMethod):
    """Class b is as likely as the pixel is dark in green: a network without padding effects."""

    card = Card("dark", "dark", "segment", "image labels", "none")
    Config = Strict

    def __init__(self) -> None:
        super().__init__(Strict(), Classes(("a", "b")))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tiles = 0

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Nothing."""

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The green channel."""
        self.tiles += len(batch.ids)
        green = batch.images[:, 1:2]
        return torch.cat([green, 1 - green], dim=1)


def trained(mpp: float | None = MPP) -> Trained:
    return Trained(Dark().eval(), "d", DatasetCard(classes=("a", "b")), {"mpp": mpp, "side": SIDE}, {"seed": 0}, ())


def tissue_image(height: int = 300, width: int = 420, seed: int = 0) -> NDArray[np.uint8]:
    """Glass with a blob of uneven, stained tissue in it."""
    rng = np.random.default_rng(seed)
    image = rng.normal(243, 1, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    blob = ((y - height / 2) / (height * 0.38)) ** 2 + ((x - width / 2) / (width * 0.4)) ** 2 < 1
    grain = rng.normal(0, 25, (height // 4 + 1, width // 4 + 1, 1)).repeat(4, 0).repeat(4, 1)[:height, :width]
    stained = np.array([185.0, 110.0, 165.0]) + grain + rng.normal(0, 8, image.shape)
    image[blob] = stained[blob]
    return image.clip(0, 255).astype(np.uint8)


def table_of(folder: Path, *images: NDArray[np.uint8], mpp: float | None = MPP) -> Manifest:
    """Flat images as slides."""
    folder.mkdir(exist_ok=True)
    samples = []
    for i, image in enumerate(images):
        path = folder / f"slide {i}.png"
        Image.fromarray(image).save(path)
        samples.append(Sample(f"slide {i}", path, patient=f"p{i}", mpp=mpp))
    return Manifest(tuple(samples), DatasetCard(classes=("a", "b")), folder, "digest")


def settings(**changes: Any) -> SlideSettings:
    return SlideSettings(**{"batch_size": 4, **changes})


def apply(table: Manifest, folder: Path, **changes: Any) -> Any:
    return apply_to_slides(trained(), table, folder, machine=MACHINE, settings=settings(**changes))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def labels_of(folder: Path, table: Manifest, number: int = 0) -> NDArray[np.uint8]:
    file = open_predictions(folder).file_of(table.samples[number])
    assert file is not None
    with open_labels(file) as image:
        height, width = image.shape
        return image.read(0, 0, width, height)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_the_stitched_map_is_the_map_of_the_undivided_slide(overlap: float, tmp_path: Path) -> None:
    image = tissue_image()
    table = table_of(tmp_path / "in", image)
    apply(table, tmp_path / "out", overlap=overlap, probabilities=True)
    found = labels_of(tmp_path / "out", table)
    seen = found != IGNORE
    assert 0.3 < seen.mean() < 0.9
    assert np.array_equal(found[seen], (image[..., 1] < 127.5).astype(np.uint8)[seen])
    with open_probabilities(next((tmp_path / "out" / "probabilities").iterdir())) as maps:
        kept = maps.read(0, 0, 420, 300)
    expected = np.stack([image[..., 1], 255 - image[..., 1]]) / 255
    assert kept[:, seen] == pytest.approx(expected[:, seen], abs=1 / 255)
    assert (kept[:, ~seen] == 0).all()


def test_all_that_is_written_says_the_same(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    folder = tmp_path / "out"
    apply(table, folder)
    found = labels_of(folder, table)
    (row,) = csv.DictReader((folder / "predictions.csv").read_text().splitlines())
    outlines = read_geojson(next((folder / "geojson").iterdir()))
    for index, name in enumerate(("a", "b")):
        pixels = int((found == index).sum())
        assert float(row[f"{name}_mm2"]) == pytest.approx(pixels * (MPP / 1000) ** 2, abs=1e-6)
        areas = [outline.area for outline in outlines if outline.class_name == name]
        assert all(area.is_valid for area in areas)
        assert sum(area.area for area in areas) == pytest.approx(pixels)
    assert (row["status"], row["unreadable"], row["mpp"]) == ("ok", "0", "0.5")
    with Image.open(next((folder / "pictures").glob("*-tissue.jpg"))) as picture:
        assert picture.width >= 420
    assert len(list((folder / "pictures").iterdir())) == 2


def test_a_second_run_does_nothing_and_other_settings_do_it_again(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1))
    folder = tmp_path / "out"
    assert apply(table, folder).reused == 0
    before = files(folder)
    assert apply(table, folder).reused == 2
    assert files(folder) == before
    assert apply(table, folder, overlap=0.5).reused == 0
    assert apply(table, folder, overlap=0.5).reused == 2


def test_neither_order_nor_company_changes_a_byte(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1))
    apply(table, tmp_path / "both")
    apply(replace(table, samples=table.samples[1:]), tmp_path / "alone")
    alone = files(tmp_path / "alone")
    both = files(tmp_path / "both")
    assert all(both[name] == content for name, content in alone.items() if not name.startswith("predictions"))


def test_a_slide_without_tissue_is_empty_and_not_tried_for_ever(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", np.full((200, 300, 3), 244, np.uint8), tissue_image())
    folder = tmp_path / "out"
    done = apply(table, folder)
    assert list(done.empty) == ["slide 0"]
    record = read_record(open_predictions(folder).record_path(table.samples[0]))
    assert record is not None
    assert record.status == EMPTY
    assert record.message
    assert open_predictions(folder).file_of(table.samples[0]) is None
    again = apply(table, folder)
    assert (again.reused, again.empty) == (2, done.empty)


def test_a_bad_slide_is_put_aside_and_changes_no_other(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1), tissue_image(seed=2))
    bad = table.samples[1].path
    bad.write_bytes(bad.read_bytes()[:3000])
    done = apply(table, tmp_path / "out")
    assert list(done.quarantined) == ["slide 1"]
    record = read_record(open_predictions(tmp_path / "out").record_path(table.samples[1]))
    assert record is not None
    assert record.status == QUARANTINED
    apply(replace(table, samples=(table.samples[0], table.samples[2])), tmp_path / "clean")
    clean, out = files(tmp_path / "clean"), files(tmp_path / "out")
    assert all(out[name] == content for name, content in clean.items() if not name.startswith("predictions"))
    assert not [name for name in out if "slide_1" in name and not name.startswith("records")]


def test_a_slide_without_spacing_is_put_aside_with_advice(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), mpp=None)
    done = apply(table, tmp_path / "out")
    assert "--mpp" in done.quarantined["slide 0"]


def test_a_run_without_spacing_needs_one(tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    with pytest.raises(HistillError, match="--at") as caught:
        apply_to_slides(trained(None), table, tmp_path / "out", machine=MACHINE, settings=settings())
    assert caught.value.code == Exit.USAGE
    apply_to_slides(trained(None), table, tmp_path / "out", machine=MACHINE, settings=settings(mpp=0.5))


def test_a_slide_that_changes_while_it_is_read_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    path = table.samples[0].path
    found = tiled.find_tissue

    def meddle(*arguments: Any) -> Any:
        path.write_bytes(path.read_bytes() + b"\0")
        return found(*arguments)

    monkeypatch.setattr(tiled, "find_tissue", meddle)
    done = apply(table, tmp_path / "out")
    assert "changed while it was read" in done.quarantined["slide 0"]
    assert not list((tmp_path / "out" / "masks").glob("*"))


def test_tissue_is_looked_at_within_regions_and_not_without(tmp_path: Path) -> None:
    from histill.data.regions import Regions

    table = table_of(tmp_path / "in", tissue_image())
    file = tmp_path / "left.geojson"
    square = shapely.box(0, 0, 210, 300)
    file.write_text(json.dumps({"type": "Feature", "geometry": shapely.geometry.mapping(square), "properties": {}}))
    regions = Regions(file)
    every = apply(table, tmp_path / "all")
    assert not every.quarantined
    for name, part in (("within", slice(None, 210 - SIDE)), ("without", slice(210 + SIDE, None))):
        folder = tmp_path / name
        apply_to_slides(trained(), table, folder, machine=MACHINE, settings=settings(), **{name: regions})
        found, whole = labels_of(folder, table), labels_of(tmp_path / "all", table)
        assert (found[:, part] != IGNORE).sum() > 1000
        assert np.array_equal(found[:, part], whole[:, part])
        other = slice(210 + SIDE, None) if name == "within" else slice(None, 210 - SIDE)
        assert (found[:, other] == IGNORE).all()


def test_areas_and_extents_are_physical(tmp_path: Path) -> None:
    """The same tissue written at other spacings gives the same area within 2 % and a map of the same extent."""
    image = tissue_image(600, 840)
    areas = {}
    for mpp in (0.5, 0.29, 0.25, 0.21):
        size = round(840 * 0.5 / mpp), round(600 * 0.5 / mpp)
        scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        folder = tmp_path / f"out-{mpp}"
        table = table_of(tmp_path / f"in-{mpp}", scaled, mpp=mpp)
        apply(table, folder)
        (row,) = csv.DictReader((folder / "predictions.csv").read_text().splitlines())
        areas[mpp] = float(row["a_mm2"]) + float(row["b_mm2"])
        height, width = labels_of(folder, table).shape
        assert (width, height) == pytest.approx((840, 600), rel=0.01)
    assert areas == pytest.approx(dict.fromkeys(areas, areas[0.5]), rel=0.02)
