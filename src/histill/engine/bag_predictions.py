"""Say of bags which class their slides are of, and which of their tiles said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from histill.core.bags import Bag
from histill.core.cells import write_cells
from histill.core.errors import Exit
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.storage import write_bytes
from histill.data.bags import read_bag
from histill.engine.apply import Applied, Listener, Made, Model, Work, apply
from histill.engine.bag_method import SlideClassifier
from histill.engine.embed import slide_name
from histill.engine.run import Machine, build_fabric
from histill.engine.slide_files import LONGEST, SlideFiles
from histill.engine.training import Trained
from histill.formats.tiles import write_tiles
from histill.report.bags import attention_picture
from histill.report.pictures import jpeg

PROBABILITY = "p_"
"""Begins the names of the columns of probabilities."""


class BagWork(Work):
    """Writes a row of probabilities for each bag and, where the method tells attention, what shows it.

    That is ``attention/<slide>.csv``, and where tiles have places ``geojson/<slide>.geojson`` for QuPath and
    ``pictures/<slide>.jpg``.

    Args:
        trained: the method.
        fabric: device and precision.
        slides: where the bags came from, as far as they are at hand.
    """

    kind: ClassVar[Literal["bags"]] = "bags"
    put_aside: ClassVar[tuple[Exit, ...]] = (*Work.put_aside, Exit.NUMBERS)
    """what is not finite stands in a bag's file"""
    column = "attention"

    def __init__(self, trained: Trained[SlideClassifier], fabric: Fabric, slides: SlideFiles) -> None:
        self.method = trained.method.to(fabric.device)
        self.fabric, self.slides = fabric, slides

    @property
    def settings(self) -> Any:
        """Which slides are drawn on."""
        return self.slides.place

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """Attention as numbers, for QuPath, and as a picture."""
        name = slide_name(sample.id)
        return f"attention/{name}.csv", f"geojson/{name}.geojson", f"pictures/{name}.jpg"

    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Predict a bag."""
        bag = read_bag(sample.path)
        if not len(bag):
            return Made((), empty="its bag holds no tile")
        with self.fabric.autocast():
            said = self.method.predict(bag)
        names = self.method.classes.names
        columns: dict[str, float | int] = {"tiles": len(bag)}
        # As many digits as float32 has, so that a table gives the same scores as the network.
        columns |= {
            f"{PROBABILITY}{name}": float(f"{p:.9g}") for name, p in zip(names, said.probabilities, strict=True)
        }
        if said.attention is None:
            return Made((), columns)
        numbers, outlines, picture = self.may_write(sample)
        write_bytes(folder / numbers, attention_table(bag, said.attention))
        files = [numbers]
        if bag.coords is not None and bag.tile_side is not None:
            write_tiles(folder / outlines, bag.coords, bag.tile_side, {"attention": said.attention}, None, bag.slide)
            slide = self.slides.open(bag.slide)
            thumbnail, size = None, bag.slide_size
            if slide is not None:
                with slide:
                    thumbnail, size = slide.thumbnail(LONGEST), slide.size
            image = attention_picture(bag.coords, bag.tile_side, said.attention, thumbnail, size)
            write_bytes(folder / picture, jpeg(image))
            files += [outlines, picture]
        return Made(tuple(files), columns)


def predict_bags(
    trained: Trained[SlideClassifier],
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    slides: SlideFiles,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Say of every bag of a table which class its slide is of; see `apply` and `BagWork`."""
    fabric = build_fabric(machine)
    work = BagWork(trained, fabric, slides)
    model = Model.of(trained)
    return apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)


def attention_table(bag: Bag, attention: NDArray[np.float32]) -> bytes:
    """A CSV of all tiles: place in level-0 px where it is known, attention."""
    places = [["", ""]] * len(bag) if bag.coords is None else bag.coords.tolist()
    rows = [[*place, f"{weight:.6g}"] for place, weight in zip(places, attention.tolist(), strict=True)]
    return write_cells(["x", "y", "attention"], rows)
