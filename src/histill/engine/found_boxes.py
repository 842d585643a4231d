"""Boxes for images that have none: what a trained detector finds there, kept as files in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from histill.core.boxes import boxes_json
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample
from histill.core.storage import safe_name, write_inside
from histill.data.images import ImageCache
from histill.engine.box_method import boxes_of_found
from histill.engine.run import Run
from histill.nets.detector import Detector


def with_found_boxes(table: Manifest, detector: Detector, least: float, run: Run, *, name: str) -> Manifest:
    """The same rows, those without a file of boxes with one that says what a detector finds.

    Args:
        table: the images.
        detector: looks at each as it is, in one piece; gets into eval mode.
        least: score of the boxes that are taken.
        run: device, processes and journal; its folder keeps the files, one an image, with the scores.
        name: of the folder for them.
    """
    bare = [sample for sample in table.samples if sample.boxes is None]
    folder = run.once(name, partial(_write, bare, table.classes, detector, least, run), shared=True)
    samples = (replace(each, boxes=folder / _file(each)) if each.boxes is None else each for each in table.samples)
    return replace(table, samples=tuple(samples))


@torch.no_grad()
def _write(
    samples: Sequence[Sample], classes: Classes, detector: Detector, least: float, run: Run, making: Path
) -> None:
    detector.eval()
    images, (begin, step) = ImageCache(), run.turns
    for number in range(begin, len(samples), step):
        sample = samples[number]
        pixels = torch.from_numpy(images.read(sample)).permute(2, 0, 1)[None].to(run.fabric.device)
        with run.fabric.autocast():
            found = boxes_of_found(detector.detect(pixels.float().div(255))[0])
        assert found.scores is not None
        kept = found.take(found.scores >= least)
        # A file of boxes is in px of the whole image, also where a row is a crop of it.
        left, top = (sample.crop.x, sample.crop.y) if sample.crop else (0, 0)
        write_inside(making, _file(sample), boxes_json(kept.shifted(left, top), classes))
        run.journal.show("made", what="boxes", done=min(len(samples), number + step), of=len(samples))


def _file(sample: Sample) -> str:
    return f"{safe_name(sample.id)}.json"
