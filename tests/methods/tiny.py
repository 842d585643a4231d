"""The smallest table and settings that a method can be trained with, in a second or so."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_boxes import OBJECTS, tiny_boxes

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.config import Strict, resolve
from histill.core.manifest import Manifest, Sample, read_manifest, write_manifest
from histill.engine.bag_method import BagMethod
from histill.engine.box_method import BoxMethod
from histill.engine.method import Method
from histill.engine.optim import Schedule
from histill.engine.run import Machine
from histill.formats.trident import write_bag
from histill.nets.classifier import ClassifierSettings
from histill.nets.detector import DetectorSettings
from histill.nets.masked_autoencoder import MaskedAutoencoderSettings
from histill.nets.mil import MultiScaleMilSettings
from histill.nets.mil_heads import MilHeadSettings
from histill.nets.segmenters import SegmenterSettings
from histill.nets.side_outputs import SideOutputSettings
from histill.selection.search import SearchSettings

TISSUES = DatasetCard(classes=("stroma", "gland", "fat"), exclude_white=True, synthetic=True)
LESIONS = DatasetCard(classes=("tumour", "rest"), background="rest", synthetic=True)
SLIDES = DatasetCard(classes=("plain", "rare"), synthetic=True)
SIZE = 40
WIDTH = 8
"""Numbers of a tile's features."""
MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)

PARTS: dict[Any, dict[str, Any]] = {
    Schedule: {"epochs": 2, "batch_size": 3, "learning_rate": 0.01, "warmup": 0.25, "average": 0.5},
    ClassifierSettings: {"encoder": "squeezenet1_0", "weights": "none", "taps": ["fire4", "fire8", "fire9"]},
    SideOutputSettings: {"encoder": "squeezenet1_0", "weights": "none"},
    SegmenterSettings: {
        "encoder": "squeezenet1_0",
        "weights": "none",
        "channels": 8,
        "atrous_rates": [1, 2, 3],
        "separable": True,
    },
    MultiScaleMilSettings: {"encoder": "squeezenet1_0", "weights": "none", "output_stride": 8, "hidden": 4},
    DetectorSettings: {"encoder": "test_resnet", "weights": "none", "channels": 64, "depth": 1, "levels": [2, 5]},
    MilHeadSettings: {"hidden": 8, "attention": 4, "attention_heads": 2, "landmarks": 4},
    MaskedAutoencoderSettings: {
        "width": 12,
        "depth": 2,
        "heads": 3,
        "decoder_width": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "drop_path": 0.5,
    },
    SearchSettings: {"trials": 4, "swaps": 8, "at_once": 4},
}
"""Settings of the parts that methods are made of; a method of new parts adds them here."""

OWN: dict[str, dict[str, Any]] = {
    "mlps": {"attention_warmup": 1, "patch_size": 48},
    "ikd_mil": {"rounds": 2},
    "glmkd": {"patch_size": 48, "smallest": 0.01},
    "mhkd": {"ratio": 2, "tile": 48, "offline": {"ramp": 3}},
    # As many tiles as the smallest bag has: of unequal ones, processes that train together draw other dropouts.
    "mil": {"most": 12, "balance": True},
    "wsisum": {"clusters": 4, "tiles": 16},
}
"""Settings of single methods, so that two epochs see all there is."""


def tiny_values(model: type[Strict]) -> dict[str, Any]:
    """For every part of a method's settings, the tiny one."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if kind in PARTS:
            values[name] = PARTS[kind]
        elif isinstance(kind, type) and issubclass(kind, Strict):
            values[name] = tiny_values(kind)
    return values


def tiny_config(kind: type[Method], table: Manifest | None = None) -> Strict:
    """A method's settings with everything tiny; for a table with all that lies beside it."""
    own = OWN.get(kind.card.name, {})
    if table is not None and "fields" in kind.Config.model_fields:
        own = {**own, "fields": str(table.path.with_name("fields.csv")), "found": 0.05}
    return resolve(kind.Config, ("tiny", {**tiny_values(kind.Config), **own}))


def tiny_card(kind: type[Method]) -> DatasetCard:
    """Of a data set that a method can learn: tissues, lesions, objects, or slides."""
    if issubclass(kind, BagMethod):
        return SLIDES
    if issubclass(kind, BoxMethod):
        return OBJECTS
    return LESIONS if kind.card.needs == "lesion labels" else TISSUES


def table_for(kind: type[Method], folder: Path) -> Manifest:
    """The tiny table that a method can learn."""
    if issubclass(kind, BoxMethod):
        return tiny_boxes(folder)
    return tiny_bags(folder) if issubclass(kind, BagMethod) else tiny_table(folder, tiny_card(kind))


def tiny_table(folder: Path, card: DatasetCard = TISSUES) -> Manifest:
    """Six images to learn from and two to choose by: blocks of one colour a class, with masks.

    Of tissues, some are white in part; of lesions, every other image has one.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    colours = np.array([(90, 50, 130), (200, 120, 170), (235, 235, 240)])
    samples = []
    for i in range(8):
        present = [(0, 1), (1,)][i % 2] if card.background else [(0, 1), (1, 2), (0, 2), (0, 1, 2)][i % 4]
        blocks = random.permutation(np.resize(np.array(present, np.uint8), 16)).reshape(4, 4)
        mask = blocks.repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1)
        image = np.clip(colours[mask] + random.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"{i}.mask.png")
        samples.append(
            Sample(
                id=f"patch {i}",
                path=folder / f"{i}.png",
                labels=tuple(card.classes[k] for k in (present[:1] if card.background else present)),
                patient=f"p{i}",
                split="train" if i < 6 else "val",
                mask=folder / f"{i}.mask.png",
            )
        )
    write_manifest(folder / "data.csv", samples, card)
    return read_manifest(folder / "data.csv")


def tiny_bag(slide: str, n: int, rare: int = 0, seed: int = 0) -> Bag:
    """Tiles on a grid six wide, of which the first few are of a rare kind."""
    random = np.random.default_rng([seed, n])
    features = random.normal(0, 1, (n, WIDTH)).astype(np.float32)
    features[:rare, 0] += 6
    number = np.arange(n)
    coords = np.stack([1000 + number % 6 * 256, 500 + number // 6 * 256], axis=1)
    return Bag(slide=slide, features=features, coords=coords, tile_side=256, tile_px=256, mpp=0.5, encoder="made up")


def tiny_bags(folder: Path) -> Manifest:
    """Six bags to learn from and two to choose by, of 12 to 30 tiles; in every other one are tiles of a rare kind."""
    samples = []
    for i in range(8):
        path = folder / f"{i}.h5"
        write_bag(path, tiny_bag(path.stem, 12 + (i * 5) % 19, rare=4 * (i % 2), seed=i))
        split = "train" if i < 6 else "val"
        samples.append(Sample(f"slide {i}", path, labels=(SLIDES.classes[i % 2],), patient=f"p{i}", split=split))
    write_manifest(folder / "data.csv", samples, SLIDES)
    return read_manifest(folder / "data.csv")
