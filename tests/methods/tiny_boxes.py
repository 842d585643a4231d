"""The smallest table of images with boxes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from histill.core.boxes import Boxes, write_boxes
from histill.core.card import DatasetCard
from histill.core.manifest import Manifest, Sample, read_manifest, write_manifest

OBJECTS = DatasetCard(classes=("glomerulus", "tubule"), synthetic=True)
SIDE = 64
PLACES = ((4, 6, 28, 30), (36, 34, 56, 60))
COLOURS = ((120, 40, 120), (60, 120, 160))


def tiny_boxes(folder: Path) -> Manifest:
    """Six images to learn from and two to choose by, of two objects, one, or none: blocks of one colour a class.

    Beside it lies the table fields.csv of three more, of other patients.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    samples = []
    for i in range(11):
        image = np.full((SIDE, SIDE, 3), 230.0)
        boxes = [(x0 + i, y0, x1 + i, y1) for x0, y0, x1, y1 in PLACES][: (2, 1, 0)[i % 3]]
        for (x0, y0, x1, y1), colour in zip(boxes, COLOURS, strict=False):
            image[y0:y1, x0:x1] = colour
        noisy = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.png")
        write_boxes(folder / f"{i}.json", Boxes.of(boxes, range(len(boxes))), OBJECTS.as_classes())
        samples.append(
            Sample(
                id=f"tile {i}",
                path=folder / f"{i}.png",
                labels=OBJECTS.classes[: len(boxes)],
                patient=f"p{i}",
                split="train" if i < 6 else "val",
                boxes=folder / f"{i}.json",
                mpp=1.0,
            )
        )
    fields = [replace(each, id=f"field {i}", labels=(), split="", boxes=None) for i, each in enumerate(samples[8:])]
    write_manifest(folder / "fields.csv", fields, OBJECTS)
    write_manifest(folder / "data.csv", samples[:8], OBJECTS)
    return read_manifest(folder / "data.csv")
