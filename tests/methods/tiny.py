"""The smallest table and settings that a method can be trained with, in a second or so."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from histill.core.card import DatasetCard
from histill.core.config import Strict, resolve
from histill.core.manifest import Manifest, Sample, read_manifest, write_manifest
from histill.engine.method import Method
from histill.engine.optim import Schedule
from histill.engine.run import Machine
from histill.nets.classifier import ClassifierSettings
from histill.nets.mil import MultiScaleMilSettings
from histill.nets.segmenters import SegmenterSettings
from histill.nets.side_outputs import SideOutputSettings

TISSUES = DatasetCard(classes=("stroma", "gland", "fat"), exclude_white=True, synthetic=True)
LESIONS = DatasetCard(classes=("tumour", "rest"), background="rest", synthetic=True)
SIZE = 40
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
}
"""Settings of the parts that methods are made of; a method of new parts adds them here."""

OWN: dict[str, dict[str, Any]] = {
    "mlps": {"attention_warmup": 1, "patch_size": 48},
    "ikd_mil": {"rounds": 2},
    "glmkd": {"patch_size": 48, "smallest": 0.01},
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


def tiny_config(kind: type[Method]) -> Strict:
    """A method's settings with everything tiny."""
    return resolve(kind.Config, ("tiny", {**tiny_values(kind.Config), **OWN.get(kind.card.name, {})}))


def tiny_card(kind: type[Method]) -> DatasetCard:
    """Of a data set that a method can learn: tissues, or lesions."""
    return LESIONS if kind.card.needs == "lesion labels" else TISSUES


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
