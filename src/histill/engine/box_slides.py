"""Find objects on whole slides, tile by tile at the method's own spacing; each object is reported once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from lightning_fabric import Fabric

from histill.core.boxes import Boxes, write_boxes
from histill.core.config import Share
from histill.core.geometry import Frame
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.storage import safe_name, write_bytes
from histill.data.regions import Regions
from histill.engine.apply import Applied, Listener, Made, apply
from histill.engine.box_images import at_least, counts, model_of
from histill.engine.box_method import BoxMethod
from histill.engine.run import Machine, build_fabric
from histill.engine.stitching import Wanted, full_batches
from histill.engine.tiled import TiledWork, TileSettings, View, looked_at
from histill.engine.training import Trained
from histill.formats.objects import objects_table, write_objects
from histill.report.boxes import box_picture
from histill.report.pictures import jpeg
from histill.slides.seams import merged

TOUCH = 3
"""px of a tile within which a box that ends at the tile's edge is taken to be cut off there."""

ROWS = 2048


class BoxSlideSettings(TileSettings):
    """How a slide is cut into tiles and what is written of it."""

    score: Share = 0.5
    """boxes of at least this score are counted, drawn and listed; the file of boxes holds the others too"""
    outlines: bool = True
    """write detections for QuPath"""


class BoxSlideWork(TiledWork):
    """Writes ``boxes/<id>.json`` in level-0 px, ``objects/<id>.csv``, ``geojson/<id>.geojson``, pictures, and counts.

    Args:
        trained: the model.
        fabric: device and precision.
        settings: see `BoxSlideSettings`.
        within: only tissue inside these regions is looked at; None for all of it.
        without: tissue inside these is left out.
    """

    column = "boxes"

    def __init__(
        self,
        trained: Trained[BoxMethod],
        fabric: Fabric,
        settings: BoxSlideSettings,
        within: Regions | None = None,
        without: Regions | None = None,
    ) -> None:
        self.method, self.fabric, self.plan = trained.method.to(fabric.device), fabric, settings
        coarser = trained.method.coarser
        mpp = looked_at(settings.mpp, trained.seen["mpp"], coarser)
        super().__init__(settings, mpp, settings.tile or max(1, trained.seen["side"] // coarser), within, without)

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """Boxes, a table of them, detections, two pictures."""
        name = safe_name(sample.id)
        return (
            f"boxes/{name}.json",
            f"objects/{name}.csv",
            f"geojson/{name}.geojson",
            f"pictures/{name}.jpg",
            f"pictures/{name}-tissue.jpg",
        )

    def tiles_picture(self, sample: Sample) -> str:
        """Beside the picture of the boxes."""
        return self.may_write(sample)[-1]

    def write(self, view: View, folder: Path, journal: Journal) -> Made:
        """Find the objects of a slide."""
        kept, listed, outlines, picture, _ = self.may_write(view.sample)
        classes, mpp, searched = self.method.classes, view.slide.mpp, _area(self._wanted(view), view.frame)
        # Without a tile there may be no tissue either, to which stains could be fitted.
        found = self._inside(self._found(view, journal), view.sample) if len(view.grid) else Boxes.of([], [], [])
        shown = at_least(found, self.plan.score)
        number = counts(shown, classes)
        columns = {"searched_mm2": round(searched, 6), **number}
        columns |= {
            name.replace("_count", "_per_mm2"): round(count / searched, 6) if searched else 0.0
            for name, count in number.items()
        }
        if not len(view.grid):
            return Made((), columns, empty=self._why_none(view.tissue))
        write_boxes(folder / kept, found, classes)
        write_bytes(folder / listed, objects_table(shown, classes, mpp))
        small = shown.scaled(view.thumbnail.shape[1] / view.slide.size[0])
        write_bytes(folder / picture, jpeg(box_picture(view.thumbnail, small, classes)))
        files = [kept, listed, picture]
        if self.plan.outlines:
            write_objects(folder / outlines, shown, classes, mpp, slide=view.sample.id)
            files.append(outlines)
        return Made(tuple(files), columns)

    def _found(self, view: View, journal: Journal) -> Boxes:
        """The objects of all tiles, each once, in level-0 px."""
        grid, scale = view.grid, view.frame.scale
        corners, classes, scores, of_tile = [], [], [], []
        done = 0
        for numbers, images in full_batches(self._tiles(view), self.side, self.plan.batch_size):
            with self.fabric.autocast():
                said = self.method.predict_all(images)[: len(numbers)]
            for number, boxes in zip(numbers, said, strict=True):
                x, y = (float(value) for value in grid.corners[number])
                placed = boxes.shifted(x, y).scaled(scale)
                assert placed.scores is not None
                corners.append(placed.corners)
                classes.append(placed.classes)
                scores.append(placed.scores)
                of_tile.append(np.full(len(placed), number))
            done += len(numbers)
            journal.show("tiles", done=done, of=len(grid))
        if not corners:
            return Boxes.of([], [], [])
        every = Boxes(np.concatenate(corners), np.concatenate(classes), np.concatenate(scores))
        first = grid.corners * scale
        places = np.concatenate([first, first + self.side * scale], axis=1)
        size = grid.frame.width, grid.frame.height
        objects = merged(every, np.concatenate(of_tile), places, size, touch=TOUCH * scale)
        return objects.clipped(*size, 0)

    def _inside(self, boxes: Boxes, sample: Sample) -> Boxes:
        """The boxes whose centre lies where the user wants to look."""
        x, y = (boxes.corners[:, :2] + boxes.corners[:, 2:]).T.astype(np.float64) / 2
        if self.within:
            inside = shapely.contains_xy(shapely.union_all(self.within.of(sample)), x, y)
            boxes, x, y = boxes.take(inside), x[inside], y[inside]
        if self.without:
            boxes = boxes.take(~shapely.contains_xy(shapely.union_all(self.without.of(sample)), x, y))
        return boxes


def find_on_slides(
    trained: Trained[BoxMethod],
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    settings: BoxSlideSettings | None = None,
    within: Regions | None = None,
    without: Regions | None = None,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Find the objects of every slide of a table; see `apply` and `BoxSlideWork`."""
    fabric = build_fabric(machine)
    plan = settings or BoxSlideSettings()
    work, model = BoxSlideWork(trained, fabric, plan, within, without), model_of(trained, plan.score)
    return apply(work, model, table, folder, fabric=fabric, most_quarantined=most_quarantined, listener=listener)


def _area(wanted: Wanted, frame: Frame) -> float:
    """mm2 of tissue that is looked at."""
    height = frame.shape[0]
    pixels = sum(int(wanted.rows(top, min(ROWS, height - top)).sum()) for top in range(0, height, ROWS))
    return pixels * (frame.mpp / 1000) ** 2
