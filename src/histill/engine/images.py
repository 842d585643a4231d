"""Segment images, each in one piece."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.masks import label_png
from histill.core.storage import safe_name, write_bytes
from histill.data.images import ImageCache
from histill.engine.apply import Applied, Listener, Made, Model, Work, apply
from histill.engine.run import Machine, build_fabric
from histill.engine.tile_method import TileMethod
from histill.engine.training import Trained

MOST_PIXELS_AT_ONCE = 16_000_000
"""Of one image: a larger one would take tens of GiB in the network."""


class ImageWork(Work):
    """Writes ``masks/<id>.png`` and, on request, ``probabilities/<id>.npz`` (float16 [k, h, w])."""

    kind: ClassVar[Literal["images"]] = "images"

    def __init__(self, trained: Trained[TileMethod], fabric: Fabric, *, probabilities: bool) -> None:
        self.method = trained.method.to(fabric.device)
        self.fabric, self.probabilities = fabric, probabilities
        self._images = ImageCache()

    @property
    def settings(self) -> Any:
        """Whether probabilities are kept."""
        return {"probabilities": self.probabilities}

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """Mask and probabilities."""
        name = safe_name(sample.id)
        return f"masks/{name}.png", f"probabilities/{name}.npz"

    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Segment an image."""
        image = _small_enough(self._images.read(sample), sample)
        with self.fabric.autocast():
            prediction = self.method.predict(image)
        mask, kept = self.may_write(sample)
        files = [mask]
        write_bytes(folder / mask, label_png(prediction.labels, self.method.classes))
        if self.probabilities:
            files.append(kept)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
            write_bytes(folder / kept, buffer.getvalue())
        h, w = prediction.labels.shape
        names = self.method.classes.names
        counts = np.bincount(prediction.labels.ravel(), minlength=len(names)).tolist()
        columns = {f"{name}_px": count for name, count in zip(names, counts, strict=True)}
        return Made(tuple(files), columns, {"size": [w, h]})


def apply_to_images(
    trained: Trained[TileMethod],
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    probabilities: bool = False,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Segment every image of a table into a folder; see `apply`."""
    fabric = build_fabric(machine)
    work = ImageWork(trained, fabric, probabilities=probabilities)
    model = Model.of(trained)
    return apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)


def _small_enough(image: NDArray[np.uint8], sample: Sample) -> NDArray[np.uint8]:
    h, w = image.shape[:2]
    if h * w > MOST_PIXELS_AT_ONCE:
        raise HistillError(
            f"{w} x {h} pixels are more than are segmented in one piece ({MOST_PIXELS_AT_ONCE // 1_000_000} million)",
            code=Exit.INPUT,
            subject=str(sample.path),
            mend="Say that it is a slide (--as slides), or give crops of it in a table (columns x, y, w, h)",
        )
    return image
