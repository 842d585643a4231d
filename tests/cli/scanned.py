"""Small slides, and a method that sees what is dark in them: what the tests of whole slides are made of.

Run as: python scanned.py ARGUMENT... it is the command line with that method in the registry, which sleeps SECONDS
(of the environment) before each batch.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import histill.methods
from histill.cli.main import main
from histill.core.card import DatasetCard
from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample, read_manifest, write_manifest
from histill.core.record import EMPTY, OK, QUARANTINED, Record, describe
from histill.data.predicted import Predictions, source_of
from histill.data.tiles import TileBatch
from histill.engine.method import Card
from histill.engine.run import Machine, Run
from histill.engine.tile_method import TileMethod
from histill.engine.training import train
from histill.formats.pyramid import new_labels

CLASSES = ("stroma", "gland", "fat")
MPP, SIDE = 0.5, 64
"""of the patches that the method learns from"""
EVERYWHERE = ("--threads", "1", "--accelerator", "cpu", "--precision", "float32")
Pixels = NDArray[np.uint8]


class Shade(TileMethod):
    """Gland is as likely as a pixel is dark in green, stroma as it is bright, and fat is nowhere."""

    card = Card("shade", "shade", "segment", "image labels", "none")
    Config = Strict

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Nothing is learnt."""

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The green channel, one minus it, and nothing."""
        time.sleep(float(os.environ.get("SECONDS", "0")))
        green = batch.images[:, 1:2]
        return torch.cat([green, 1 - green, torch.zeros_like(green)], dim=1)


def install() -> None:
    """Put the method in the registry's place."""
    histill.methods.find = lambda name: Shade


def shades(image: Pixels) -> Pixels:
    """What the method says of pixels: class indices."""
    green = (image[..., 1].astype(np.float32) / np.float32(255))[None]
    return np.concatenate([green, 1 - green]).argmax(0).astype(np.uint8)


def write_run(folder: Path, mpp: float | None = MPP) -> Path:
    """A finished run of the method; returns its folder."""
    folder.mkdir(parents=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(folder / "patch.png")
    sample = Sample("s", folder / "patch.png", patient="p", mpp=mpp)
    table = Manifest((sample,), DatasetCard(classes=CLASSES), folder, "digest")
    machine = Machine(accelerator="cpu", precision="float32", threads=1)
    train(Shade, table, None, folder=folder / "run", config=Strict(), seed=0, machine=machine)
    return folder / "run"


def tissue(height: int = 300, width: int = 420, seed: int = 0) -> Pixels:
    """Glass with a blob of uneven, stained tissue."""
    random = np.random.default_rng(seed)
    image = random.normal(243, 1, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    blob = ((y - height / 2) / (height * 0.38)) ** 2 + ((x - width / 2) / (width * 0.4)) ** 2 < 1
    grain = random.normal(0, 25, (height // 16 + 1, width // 16 + 1, 1)).repeat(16, 0).repeat(16, 1)[:height, :width]
    stained = np.array([185.0, 125.0, 165.0]) + grain + random.normal(0, 1, image.shape)
    image[blob] = stained[blob]
    return image.clip(0, 255).astype(np.uint8)


def glass(height: int = 300, width: int = 420) -> Pixels:
    """Nothing but glass."""
    return np.random.default_rng(0).normal(243, 1, (height, width, 3)).astype(np.uint8)


def write_slide(
    path: Path, image: Pixels, mpp: float | None = MPP, downs: Sequence[float] = (1, 2), **options: Any
) -> Path:
    """A tiled TIFF without loss, which OpenSlide opens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    spacing = {} if mpp is None else {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    given = {"compression": "zlib", "photometric": "rgb", "tile": (64, 64), "metadata": None, **spacing, **options}
    with tifffile.TiffWriter(path) as file:
        for down in downs:
            size = round(width / down), round(height / down)
            level = image if down == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            file.write(level, subfiletype=int(down > 1), **given)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], classes: Sequence[str] = CLASSES, **card: Any) -> Path:
    """A table of slides; each row is what a `Sample` takes."""
    samples = [Sample(patient=row["id"], **row) for row in rows]
    write_manifest(path, samples, DatasetCard(classes=tuple(classes), **card))
    return path


def write_predictions(
    folder: Path,
    table: Path,
    maps: Mapping[str, Pixels | str],
    *,
    sizes: Mapping[str, tuple[int, int]],
    mpp: float = MPP,
    level0: float = MPP,
    method: str = "shade",
) -> Path:
    """What `histill predict` leaves of slides, of label maps that are given; a text in a map's place puts it aside."""
    manifest = read_manifest(table)
    predictions = Predictions(folder, "slides", method, "m", "s", manifest.classes.names, {"seed": 0}, ())
    predictions.write()
    for sample in manifest.samples:
        found, source = maps[sample.id], source_of(sample, "slides")
        facts = {"id": sample.id, "size": list(sizes[sample.id]), "level0_mpp": level0, "mpp": mpp}
        path = predictions.record_path(sample)
        if isinstance(found, str):
            status = EMPTY if found == EMPTY else QUARANTINED
            Record(status, "s", source, {}, facts if status == EMPTY else {"id": sample.id}, found).write(path)
            continue
        name = f"masks/{sample.id}.ome.tif"
        with new_labels(folder / name, shape=found.shape[:2], mpp=mpp, classes=manifest.classes) as labels:
            labels.add(found)
        Record(OK, "s", source, describe(folder, [name]), facts).write(path)
    return folder


if __name__ == "__main__":
    install()
    sys.exit(main(sys.argv[1:]))
