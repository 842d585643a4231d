"""Fields that nobody has put boxes into: a second table, learnt from by what a trained detector finds there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from histill.core.boxes import boxes_json
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample, read_manifest
from histill.core.record import fingerprint
from histill.core.storage import safe_name, write_inside
from histill.data.images import ImageCache, require_sound_files
from histill.engine.box_method import boxes_of_found
from histill.engine.run import Run
from histill.engine.tile_method import common_spacing
from histill.engine.training import content_of
from histill.nets.detector import Detector

FOUND = "found-boxes"
OFF = 0.1
"""A spacing that differs by more than this share from the others' is refused: objects would be of another size."""


def read_fields(path: Path, beside: Manifest) -> Manifest:
    """The rows of a table that are neither of split test nor of split val, without what it says of them.

    Args:
        path: the table; its classes may be any.
        beside: the rows with boxes that are learnt from as well.

    Raises:
        HistillError: usage (2) if there is no such row, or its spacing is another; as `read_manifest`.
    """
    table = read_manifest(path).choose(lambda sample: sample.split not in ("test", "val"))
    if not table.samples:
        what = "every row is of split test or val, which is never learnt from"
        raise HistillError(what, code=Exit.USAGE, subject=str(path), mend="Give rows of split train, or of none")
    own, other = common_spacing(table), common_spacing(beside)
    if own and other and abs(own / other - 1) > OFF:
        raise HistillError(
            f"its images have {own:g} um/px, those with boxes {other:g}",
            code=Exit.USAGE,
            subject=str(path),
            mend="Make both tables at one spacing",
        )
    bare = (replace(each.without_truth(), labels=()) for each in table.samples)
    return replace(table, samples=tuple(bare))


def open_fields(path: Path, beside: Manifest, run: Run) -> Manifest:
    """As `read_fields`, every image having been opened once.

    Raises:
        HistillError: as `read_fields`; input (4) with every image that cannot be read.
    """
    fields = read_fields(path, beside)
    require_sound_files(fields, lambda done, of: run.journal.show("made", what="opening fields", done=done, of=of))
    return fields


def digest_of_fields(path: Path, beside: Manifest) -> str:
    """A hash of the rows and of their images; see `read_fields`."""
    fields = read_fields(path, beside)
    return fingerprint([fields.digest, content_of(fields.samples)])


def with_fields(table: Manifest, fields: Manifest, detector: Detector, least: float, run: Run) -> Manifest:
    """A table's rows, and behind them fields, with files that say what a detector finds in them.

    Args:
        table: rows with boxes.
        fields: see `read_fields`.
        detector: looks at each image as it is, in one piece; gets into eval mode.
        least: score of the boxes that are taken.
        run: device, processes and journal; its folder keeps the files, one an image, with the scores.
    """
    folder = run.once(FOUND, partial(_find, fields, table.classes, detector, least, run), shared=True)
    found = (replace(each, boxes=folder / _file(each)) for each in fields.samples)
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
        assert found.scores is not None
        # A file of boxes is in px of the whole image, also where a row is a crop of it.
        left, top = (sample.crop.x, sample.crop.y) if sample.crop else (0, 0)
        kept = found.take(found.scores >= least).shifted(left, top)
        write_inside(making, _file(sample), boxes_json(kept, classes))
        run.journal.show("made", what=FOUND, done=min(n, number + step), of=n)


def _file(sample: Sample) -> str:
    return f"{safe_name(sample.id)}.json"
