"""Find objects in images, each in one piece, as coarse as the method looks at them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from histill.core.boxes import Boxes, write_boxes
from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample
from histill.core.seeds import generator
from histill.core.storage import safe_name, write_bytes
from histill.data.images import ImageCache
from histill.data.pairs import seen_coarser
from histill.engine.apply import Applied, Listener, Made, Model, Work, apply
from histill.engine.box_method import BoxMethod
from histill.engine.images import MOST_PIXELS_AT_ONCE
from histill.engine.run import Machine, build_fabric
from histill.engine.training import Trained
from histill.report.boxes import box_picture
from histill.report.pictures import jpeg

OFF = 0.1
"""A spacing that differs by more than this share from the one at which the method looks is noted."""


class BoxImageSettings(Strict):
    """How images are looked at, and which boxes are counted."""

    coarse: bool = False
    """images are as coarse as the method looks at them already, whatever their spacing"""
    score: Share = 0.5
    """boxes of at least this score are counted and drawn; the file of boxes holds the others too"""


class BoxImageWork(Work):
    """Writes ``boxes/<id>.json``, in px of the image, and ``pictures/<id>.jpg``, and counts what was found.

    An image finer than the method looks at is made as coarse, as by its scanner: by the whole number that the spacings
    of both say, or where one of them is not known, as the images that it learnt from.
    """

    kind: ClassVar[Literal["images"]] = "images"
    column = "boxes"

    def __init__(self, trained: Trained[BoxMethod], fabric: Fabric, settings: BoxImageSettings) -> None:
        self.method, self.mpp = trained.method.to(fabric.device), trained.seen["mpp"]
        self.fabric, self.plan = fabric, settings
        self._images = ImageCache()

    @property
    def settings(self) -> Any:
        """As given."""
        return self.plan.model_dump(mode="json")

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """Boxes and a picture."""
        name = safe_name(sample.id)
        return f"boxes/{name}.json", f"pictures/{name}.jpg"

    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Find the objects of an image."""
        image = self._images.read(sample)
        h, w = image.shape[:2]
        times = self.times(sample, journal)
        # Each image has noise of its own, the same whenever it is looked at.
        noise = generator(0, "scanner", sample.id)
        seen = seen_coarser(image, times, self.method.scanner, noise) if times > 1 else image
        with self.fabric.autocast():
            found = self.method.predict(_small_enough(seen, sample)).scaled(times).clipped(w, h, 0)
        boxes, picture = self.may_write(sample)
        classes = self.method.classes
        write_boxes(folder / boxes, found, classes)
        shown = at_least(found, self.plan.score)
        write_bytes(folder / picture, jpeg(box_picture(image, shown, classes)))
        details = {"size": [w, h], "times": times, "mpp": sample.mpp}
        return Made((boxes, picture), counts(shown, classes), details)

    def times(self, sample: Sample, journal: Journal) -> int:
        """How many times as coarse an image is made; 1 for one that is as coarse as the method looks at it."""
        if self.plan.coarse:
            return 1
        if sample.mpp is None or self.mpp is None:
            return self.method.coarser
        looks = float(self.mpp * self.method.coarser)
        wanted = looks / sample.mpp
        times = max(1, round(wanted))
        if abs(times / wanted - 1) > OFF:
            text = f"{sample.id}: it is seen at {sample.mpp * times:g} um/px, and the method learnt at {looks:g}"
            journal.say("note", text=text)
        return times


def find_in_images(
    trained: Trained[BoxMethod],
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    settings: BoxImageSettings | None = None,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Find the objects of every image of a table; see `apply` and `BoxImageWork`."""
    fabric = build_fabric(machine)
    plan = settings or BoxImageSettings()
    work, model = BoxImageWork(trained, fabric, plan), model_of(trained, plan.score)
    return apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)


def model_of(trained: Trained[BoxMethod], score: float) -> Model:
    """A trained method as the index names it: what it wrote are boxes, and which of them were counted."""
    model = Model.of(trained)
    return replace(model, about={**model.about, "task": trained.method.card.task, "score": score})


def at_least(boxes: Boxes, score: float) -> Boxes:
    """The boxes of at least a score."""
    assert boxes.scores is not None
    return boxes.take(boxes.scores >= np.float32(score))


def counts(boxes: Boxes, classes: Classes) -> dict[str, float | int]:
    """How many boxes there are of each class, by the name of its column."""
    found = np.bincount(boxes.classes, minlength=len(classes)).tolist()
    return {f"{name}_count": count for name, count in zip(classes.names, found, strict=True)}


def _small_enough(image: NDArray[np.uint8], sample: Sample) -> NDArray[np.uint8]:
    h, w = image.shape[:2]
    if h * w > MOST_PIXELS_AT_ONCE:
        raise HistillError(
            f"{w} x {h} pixels are more than are looked at in one piece ({MOST_PIXELS_AT_ONCE // 1_000_000} million)",
            code=Exit.INPUT,
            subject=str(sample.path),
            mend="Say that it is a slide (--as slides), or give crops of it in a table (columns x, y, w, h)",
        )
    return image
