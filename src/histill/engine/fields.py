"""Fields that nobody has put boxes into: a second table, learnt from by what a trained detector finds there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from histill.core.boxes import Boxes, boxes_json, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample, read_manifest, table_error
from histill.core.storage import safe_name, write_inside
from histill.data.images import ImageCache, image_size
from histill.engine.box_method import boxes_of_found
from histill.engine.images import MOST_PIXELS_AT_ONCE
from histill.engine.run import Run
from histill.engine.tile_method import common_spacing
from histill.nets.detector import Detector

FOLDER = "fields"
OFF = 0.1
"""A spacing that differs by more than this share from the others' is refused: objects would be of another size."""
THINNEST = 1.0
"""px; a box that is thinner tells of nothing."""


def read_fields(path: Path) -> Manifest:
    """The rows of a table that are neither of split test nor of split val, without what it says of them.

    Args:
        path: the table; its classes may be any.

    Raises:
        HistillError: usage (2) if there is no such row; as `read_manifest`.
    """
    table = read_manifest(path).choose(lambda sample: sample.split not in ("test", "val"))
    if not table.samples:
        what = "every row is of split test or val, which is never learnt from"
        raise HistillError(what, code=Exit.USAGE, subject=str(path), mend="Give rows of split train, or of none")
    bare = (replace(each.without_truth(), labels=()) for each in table.samples)
    return replace(table, samples=tuple(bare))


def require_alike(fields: Manifest, beside: Manifest) -> None:
    """See that a detector for the images of one table can look at those of another.

    Args:
        fields: these; a row whose spacing is not known passes.
        beside: the images with boxes; where they have no common spacing, any passes.

    Raises:
        HistillError: usage (2) with the line of every row of another spacing, or of too many pixels at once.
    """
    wanted, faults = common_spacing(beside), []
    for sample in fields.samples:
        h, w = (sample.crop.h, sample.crop.w) if sample.crop else image_size(sample.path)
        where = f"line {sample.line} ({sample.id})"
        if h * w > MOST_PIXELS_AT_ONCE:
            most = MOST_PIXELS_AT_ONCE // 1_000_000
            faults.append(f"{where}: {w} x {h} pixels are more than are looked at in one piece ({most} million)")
        if wanted and sample.mpp and abs(sample.mpp / wanted - 1) > OFF:
            faults.append(f"{where}: it has {sample.mpp:g} um/px, the images with boxes {wanted:g}")
    if faults:
        raise table_error(fields.path, faults, "Give windows of one size and spacing (histill import --cut patches)")


def with_fields(table: Manifest, fields: Manifest, detector: Detector, least: float, run: Run) -> Manifest:
    """A table's rows, and behind them fields, with files that say what a detector finds in them.

    Args:
        table: rows with boxes.
        fields: see `read_fields`.
        detector: looks at each image as it is, in one piece; gets into eval mode.
        least: score of the boxes that are taken.
        run: device, processes and journal; its folder keeps the files, one an image, with the scores.

    Raises:
        HistillError: input (4) if an image cannot be read.
    """
    folder = run.once(FOLDER, partial(_find, fields, table.classes, detector, least, run), shared=True)
    found = tuple(replace(each, boxes=folder / _file(each)) for each in fields.samples)
    counts = [len(read_boxes(folder / _file(each), table.classes)) for each in found]
    text = f"the teacher finds {sum(counts)} objects in {sum(map(bool, counts))} of {len(counts)} fields without boxes"
    run.journal.say("note", text=text)
    return replace(table, samples=(*table.samples, *found))


@torch.no_grad()
def _find(fields: Manifest, classes: Classes, detector: Detector, least: float, run: Run, making: Path) -> None:
    detector.eval()
    images, (begin, step), n = ImageCache(), run.turns, len(fields.samples)
    for number in range(begin, n, step):
        sample = fields.samples[number]
        pixels = torch.from_numpy(images.read(sample)).permute(2, 0, 1)[None].to(run.fabric.device)  # [1, 3, h, w]
        with run.fabric.autocast():
            found = boxes_of_found(detector.detect(pixels.float().div(255))[0])
        # A file of boxes is in px of the whole image, also where a row is a crop of it.
        left, top = (sample.crop.x, sample.crop.y) if sample.crop else (0, 0)
        write_inside(making, _file(sample), boxes_json(_kept(found, least).shifted(left, top), classes))
        run.journal.show("made", what=FOLDER, done=min(n, number + step), of=n)


def _kept(found: Boxes, least: float) -> Boxes:
    assert found.scores is not None
    sides = found.corners[:, 2:] - found.corners[:, :2]  # [n, 2]
    return found.take((found.scores >= least) & (sides >= THINNEST).all(1))


def _file(sample: Sample) -> str:
    # In a folder of their own, as a field may have the name of the folder's record.
    return f"boxes/{safe_name(sample.id)}.json"
