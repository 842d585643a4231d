"""Segment whole slides: label maps, outlines, pictures and areas, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from histill.core.journal import Journal
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.core.storage import safe_name, write_bytes
from histill.data.regions import Regions
from histill.engine.apply import Applied, Listener, Made, Model, apply
from histill.engine.handoff import Handoff
from histill.engine.run import Machine, build_fabric
from histill.engine.stitching import TileMaps, decided_bands, segment_tiles
from histill.engine.tile_method import TileMethod
from histill.engine.tiled import TiledWork, TileSettings, View, looked_at
from histill.engine.training import Trained
from histill.formats.features import label_map_features, write_features
from histill.formats.maps import open_labels
from histill.formats.pyramid import new_labels, new_probabilities
from histill.report.pictures import strip


class SlideSettings(TileSettings):
    """How a slide is cut into tiles and what is written of it."""

    probabilities: bool = False
    """also write class probabilities"""
    outlines: bool = True
    """write outlines for QuPath"""


class SlideWork(TiledWork):
    """Writes, for each slide, ``masks/<id>.ome.tif``, ``geojson/<id>.geojson``, pictures, and areas in mm2.

    Args:
        trained: the model.
        fabric: device and precision.
        settings: see `SlideSettings`.
        within: only tissue inside these regions is looked at; None for all of it.
        without: tissue inside these is left out.
    """

    def __init__(
        self,
        trained: Trained[TileMethod],
        fabric: Fabric,
        settings: SlideSettings,
        within: Regions | None = None,
        without: Regions | None = None,
    ) -> None:
        self.method, self.fabric, self.plan = trained.method.to(fabric.device), fabric, settings
        mpp = looked_at(settings.mpp, trained.seen["mpp"])
        super().__init__(settings, mpp, settings.tile or trained.seen["side"], within, without)

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """Mask, probabilities, outlines, two pictures."""
        name = safe_name(sample.id)
        return (
            f"masks/{name}.ome.tif",
            f"probabilities/{name}.ome.tif",
            f"geojson/{name}.geojson",
            f"pictures/{name}.jpg",
            f"pictures/{name}-tissue.jpg",
        )

    def tiles_picture(self, sample: Sample) -> str:
        """Beside the picture of the classes."""
        return self.may_write(sample)[-1]

    def write(self, view: View, folder: Path, journal: Journal) -> Made:
        """Segment a slide."""
        mask, kept, outlines, picture, _ = self.may_write(view.sample)
        counts = np.zeros(256, np.int64)
        if not len(view.grid):
            return Made((), self._areas(view, counts), empty=self._why_none(view.tissue))
        small = _Small(view.frame.shape, view.thumbnail.shape[:2])
        self._write(folder / mask, folder / kept, self._maps(view, journal), view, small, counts)
        files, classes, named = [mask, picture], self.method.classes, {self.method.card.name: small.labels}
        height = min(1000, len(view.thumbnail))
        write_bytes(folder / picture, strip(view.thumbnail, named, classes, height=height, legend=True))
        if self.plan.probabilities:
            files.append(kept)
        if self.plan.outlines:
            files.append(outlines)
            with open_labels(folder / mask) as labels:
                background = [] if classes.background is None else [classes.background]
                features = label_map_features(labels.bands(), classes, view.frame, left_out=background)
                write_features(folder / outlines, features, slide=view.sample.id)
        return Made(tuple(files), self._areas(view, counts))

    def _areas(self, view: View, counts: NDArray[np.int64]) -> dict[str, float | int]:
        mm2 = (view.frame.mpp / 1000) ** 2
        return {f"{name}_mm2": round(float(counts[i] * mm2), 6) for i, name in enumerate(self.method.classes.names)}

    def _maps(self, view: View, journal: Journal) -> Iterator[TileMaps]:
        done = 0
        for maps in segment_tiles(self._tiles(view), self.method, self.fabric, self.side, self.plan.batch_size):
            done += len(maps.tiles)
            journal.show("tiles", done=done, of=len(view.grid))
            yield maps

    def _write(
        self,
        mask: Path,
        kept: Path,
        maps: Iterator[TileMaps],
        view: View,
        small: _Small,
        counts: NDArray[np.int64],
    ) -> None:
        """Write the label map, and probabilities on request, beside the network, which runs in this thread."""
        classes, frame, wanted = self.method.classes, view.frame, self._wanted(view)
        probabilities = self.plan.probabilities

        def write(maps: Iterator[TileMaps]) -> None:
            with ExitStack() as stack:
                labels = stack.enter_context(new_labels(mask, shape=frame.shape, mpp=frame.mpp, classes=classes))
                also = (
                    stack.enter_context(new_probabilities(kept, shape=frame.shape, mpp=frame.mpp, classes=classes))
                    if probabilities
                    else None
                )
                for band in decided_bands(maps, view.grid, wanted, self.method, probabilities=probabilities):
                    small.take(band.top, band.labels)
                    np.add(counts, np.bincount(band.labels.ravel(), minlength=256), out=counts)
                    labels.add(band.labels)
                    if also is not None and band.probabilities is not None:
                        also.add(band.probabilities)

        with Handoff(write) as writer:
            for each in maps:
                writer.put(each)


class _Small:
    """A label map made small as its bands go by: the nearest pixel of each.

    Args:
        shape: height and width of the map.
        small: height and width to come to.
    """

    def __init__(self, shape: tuple[int, int], small: tuple[int, int]) -> None:
        self.labels = np.full(small, IGNORE, np.uint8)
        self._rows, self._columns = (
            np.minimum(((np.arange(to) + 0.5) * of / to).astype(np.intp), of - 1)
            for to, of in zip(small, shape, strict=True)
        )

    def take(self, top: int, labels: NDArray[np.uint8]) -> None:
        """A band whose first row is `top`."""
        first, last = np.searchsorted(self._rows, [top, top + len(labels)])
        self.labels[first:last] = labels[self._rows[first:last] - top][:, self._columns]


def apply_to_slides(
    trained: Trained[TileMethod],
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    settings: SlideSettings | None = None,
    within: Regions | None = None,
    without: Regions | None = None,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Segment every slide of a table into a folder; see `apply` and `SlideWork`."""
    fabric = build_fabric(machine)
    work = SlideWork(trained, fabric, settings or SlideSettings(), within, without)
    model = Model.of(trained)
    return apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)
