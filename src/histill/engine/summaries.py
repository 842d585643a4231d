"""Summarise bags: a few tiles of each that stand in for it, as a bag of their own, and what they look like."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Bag
from histill.core.cells import write_cells
from histill.core.errors import Exit
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample, write_manifest
from histill.core.predictions import SummaryPrediction
from histill.core.seeds import derive
from histill.core.storage import write_bytes
from histill.data.bag_batches import steps_of
from histill.data.bags import read_bag
from histill.engine.apply import Applied, Listener, Made, Model, Work, apply
from histill.engine.bag_method import SlideClassifier, SlideSummariser
from histill.engine.embed import features_folder, slide_name
from histill.engine.run import Machine, build_fabric
from histill.engine.slide_files import LONGEST, SlideFiles, read_tile
from histill.engine.training import Trained
from histill.formats.tiles import write_tiles
from histill.formats.trident import write_bag
from histill.metrics.fidelity import fidelity
from histill.report.bags import contact_sheet, summary_picture
from histill.report.pictures import jpeg
from histill.selection.baselines import ATTENTION, find
from histill.selection.clusters import cluster

Choose = Callable[[Sample, Bag, int, int], SummaryPrediction]
"""Sample, its bag, budget, seed -> the tiles."""

SUMMARIES = "summaries"
SHEET_SIDE = 160
"""Side of a tile in a contact sheet, in px."""
MOST_ON_SHEET = 250


@dataclass(frozen=True)
class Budget:
    """How many tiles a summary has: a number, or a share of the bag; a small bag keeps all it has.

    Attributes:
        tiles: the number; 0 where it is a share.
        share: of a bag's tiles.
    """

    tiles: int = 0
    share: float = 0.0

    def of(self, n: int) -> int:
        """Of a bag of n tiles: at least 1."""
        return min(n, self.tiles or max(1, round(self.share * n)))


class SummaryWork(Work):
    """Writes, for each bag, ``features_<encoder>/<slide>.h5``, its tiles as a list and for QuPath, and pictures.

    Args:
        choose: finds the tiles.
        about: what the choice depends on besides the bag; JSON-like.
        budget: how many.
        seed: of every draw; each slide has draws of its own.
        encoder: that made the features.
        slides: where the bags came from, as far as they are at hand.
    """

    kind: ClassVar[Literal["bags"]] = "bags"
    put_aside: ClassVar[tuple[Exit, ...]] = (*Work.put_aside, Exit.NUMBERS)
    """what is not finite stands in a bag's file"""
    column = "features"

    def __init__(self, choose: Choose, about: Any, budget: Budget, seed: int, encoder: str, slides: SlideFiles) -> None:
        self.choose, self.about, self.budget, self.seed = choose, about, budget, seed
        self.folder = features_folder(encoder or "unknown")
        self.slides = slides

    @property
    def name(self) -> str:
        """Of index and table."""
        return SUMMARIES

    @property
    def settings(self) -> Any:
        """What chooses, how many, by which seed."""
        return [self.about, asdict(self.budget), self.seed, self.slides.place]

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """The summary as a bag, its tiles as a list and for QuPath, the lit slide, the contact sheet."""
        name = slide_name(sample.id)
        listed = f"kept/{name}.csv", f"geojson/{name}.geojson"
        return f"{self.folder}/{name}.h5", *listed, f"pictures/{name}.jpg", f"sheets/{name}.jpg"

    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Summarise a bag."""
        bag = read_bag(sample.path)
        if not len(bag):
            return Made((), empty="its bag holds no tile")
        began = time.perf_counter()
        found = self.choose(sample, bag, self.budget.of(len(bag)), derive(self.seed, "summary", sample.id))
        seconds = time.perf_counter() - began
        features, kept, outlines, picture, sheet = self.may_write(sample)
        write_bag(folder / features, bag.take(found.kept))
        write_bytes(folder / kept, kept_table(bag, found))
        files = [features, kept, *self._pictures(bag, found, folder, picture, sheet)]
        if bag.coords is not None and bag.tile_side is not None:
            told = {"row": found.kept, "cluster": found.clusters[found.kept]}
            write_tiles(folder / outlines, bag.coords[found.kept], bag.tile_side, told, None, bag.slide)
            files.append(outlines)
        measures = asdict(fidelity(bag.features, found.kept))
        measures = {"score": found.score, "reconstruction_by_model": found.reconstruction, **measures}
        columns: dict[str, float | int] = {
            "tiles": len(bag),
            "kept": len(found.kept),
            **{name: round(value, 6) for name, value in measures.items() if math.isfinite(value)},
            "bytes": (folder / features).stat().st_size,
            "bytes_of_bag": sample.path.stat().st_size,
        }
        journal.say("summarised", id=sample.id, seconds=round(seconds, 3))
        return Made(tuple(files), columns)

    def _pictures(self, bag: Bag, found: SummaryPrediction, folder: Path, picture: str, sheet: str) -> list[str]:
        if bag.coords is None:
            return []
        slide = self.slides.open(bag.slide)
        side = bag.tile_side or _gap(bag)
        if slide is None:
            image = summary_picture(bag.coords, side, found.clusters, found.kept, None, bag.slide_size)
            write_bytes(folder / picture, jpeg(image))
            return [picture]
        with slide:
            thumbnail = slide.thumbnail(LONGEST)
            image = summary_picture(bag.coords, side, found.clusters, found.kept, thumbnail, slide.size)
            order = found.kept[np.argsort(found.clusters[found.kept], kind="stable")][:MOST_ON_SHEET]
            tiles = [read_tile(slide, bag, int(i), SHEET_SIDE) for i in order] if bag.tile_side else []
        write_bytes(folder / picture, jpeg(image))
        if not tiles:
            return [picture]
        write_bytes(folder / sheet, jpeg(contact_sheet(tiles, found.clusters[order].tolist())))
        return [picture, sheet]


def summarise_bags(
    work: SummaryWork,
    model: Model,
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Summarise every bag of a table; see `apply`. Writes ``data.csv`` too: the table, of the summaries."""
    fabric = build_fabric(machine)
    applied = apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)
    left_out = {*applied.quarantined, *applied.empty}
    rows = [
        replace(sample.without_truth(), path=folder / work.may_write(sample)[0])
        for sample in table.samples
        if sample.id not in left_out
    ]
    if rows:
        write_manifest(folder / "data.csv", rows, table.card)
    return applied


def kept_table(bag: Bag, found: SummaryPrediction) -> bytes:
    """A CSV of the kept tiles: the row in the bag, place in level-0 px where it is known, cluster."""
    rows = []
    for i in found.kept.tolist():
        x, y = ("", "") if bag.coords is None else bag.coords[i].tolist()
        rows.append([i, x, y, int(found.clusters[i])])
    return write_cells(["row", "x", "y", "cluster"], rows)


def by_baseline(select: Callable[[NDArray[Any], NDArray[Any], int, int], NDArray[np.int64]]) -> Choose:
    """A choice that needs no model, see `selection.baselines`; clusters are those of its pictures."""

    def choose(sample: Sample, bag: Bag, budget: int, seed: int) -> SummaryPrediction:
        clusters = cluster(bag.features, derive(seed, "clusters")).labels
        kept = select(bag.features, steps_of(bag), budget, seed)
        return SummaryPrediction(kept, math.nan, math.nan, clusters)

    return choose


def by_summariser(trained: Trained[SlideSummariser], machine: Machine) -> Choose:
    """The choice of a trained method."""
    fabric = build_fabric(machine)
    method = trained.method.to(fabric.device)

    def choose(sample: Sample, bag: Bag, budget: int, seed: int) -> SummaryPrediction:
        with fabric.autocast():
            return method.summarise(bag, budget, seed=seed)

    return choose


def by_attention(trained: Trained[SlideClassifier], machine: Machine) -> Choose:
    """The tiles that a trained classifier of bags looks at most.

    Raises, when it chooses:
        HistillError: usage (2) if its head tells no attention.
    """
    fabric = build_fabric(machine)
    method = trained.method.to(fabric.device)

    def choose(sample: Sample, bag: Bag, budget: int, seed: int) -> SummaryPrediction:
        with fabric.autocast():
            attention = method.predict(bag).attention
        return by_baseline(find(ATTENTION, attention))(sample, bag, budget, seed)

    return choose


def _gap(bag: Bag) -> int:
    """The side of a tile in level-0 px that its neighbours' distance tells."""
    assert bag.coords is not None
    steps = steps_of(bag)
    wide, far = np.ptp(bag.coords, axis=0).max(), np.ptp(steps, axis=0).max()
    return max(1, round(float(wide / far))) if far else 1
