"""What the pages of evaluate and demo share: pictures of images with their masks, and how good pseudo-masks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.cli.console import Console
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest
from histill.core.masks import LabelMap
from histill.core.record import read_record
from histill.core.report import Cell, Table
from histill.data.images import image_size, read_image, read_mask
from histill.data.predicted import Predictions
from histill.data.truth import nearest, open_truth
from histill.engine.scoring import score_pseudo_masks
from histill.formats.maps import open_labels
from histill.metrics.objects import Case, quality
from histill.metrics.summary import ImageScore, exemplars, summarise
from histill.pseudo.masks import PseudoMasks, open_masks
from histill.report.boxes import box_picture
from histill.report.html import Figure, Section
from histill.report.pictures import jpeg, strip
from histill.slides.worker import open_guarded

THUMBNAIL = 1200
"""Longer side of a slide's picture in px."""


def picture_sections(
    table: Manifest, predictions: Mapping[str, Predictions], scores: Sequence[ImageScore], count: int
) -> list[Section]:
    """The best, median and worst images by the first method's score, each beside its truth and every prediction."""
    samples = {sample.id: sample for sample in table.samples}
    first = next(iter(predictions))
    sections = []
    for kind, chosen in exemplars(scores, count).items():
        figures = []
        for score in chosen:
            sample = samples[score.id]
            panels: dict[str, LabelMap] = {"truth": read_mask(sample, table.card, image_size(sample.path))}
            for name, folder in predictions.items():
                mask = folder.mask_of(sample)
                if mask is not None:
                    panels[name] = mask
            image = read_image(sample.path, sample.crop)
            caption = f"mIoU of {first} on this image {score.quality:.2f}; patient {score.patient}"
            figures.append(Figure(sample.id, caption, strip(image, panels, table.classes)))
        if figures:
            ranking = "Ranked by the mean IoU of each image."
            sections.append(Section(f"The {kind} images", ranking, tuple(figures), legend=table.classes))
    return sections


def slide_sections(
    table: Manifest, predictions: Mapping[str, Predictions], scores: Sequence[ImageScore], count: int
) -> list[Section]:
    """The best, median and worst slides by the first method's score, each beside its truth and every prediction."""
    samples = {sample.id: sample for sample in table.samples}
    first = next(iter(predictions))
    sections = []
    for kind, chosen in exemplars(scores, count).items():
        figures = []
        for score in chosen:
            sample = samples[score.id]
            record = predictions[first].record_of(sample)
            assert sample.mask is not None
            assert record is not None
            # As it was predicted: neither table nor file may say it.
            mpp = float(record.details["level0_mpp"])
            with open_guarded(sample.path, sample.mpp) as slide:
                picture = slide.thumbnail(THUMBNAIL)
                size = slide.size
            # The map of the picture's own size.
            frame = Frame(*size, mpp, mpp * size[0] / picture.shape[1])
            rows = min(frame.shape[0], len(picture))
            with open_truth(sample.mask, table.card, size) as truth:
                panels = {"truth": _fitted(truth.band(frame, 0, rows), picture)}
            for name, folder in predictions.items():
                file = folder.file_of(sample)
                if file is not None:
                    with open_labels(file) as labels:
                        small = nearest(labels, size[0] / labels.shape[1], frame, 0, rows)
                    panels[name] = _fitted(small, picture)
            caption = f"mIoU of {first} on this slide {score.quality:.2f}; patient {score.patient}"
            figures.append(Figure(sample.id, caption, strip(picture, panels, table.classes, height=480)))
        if figures:
            ranking = "Ranked by the mean IoU of each slide."
            sections.append(Section(f"The {kind} slides", ranking, tuple(figures), legend=table.classes))
    return sections


def box_sections(table: Manifest, cases: Sequence[Case], score: float, count: int) -> list[Section]:
    """The best, median and worst images by F1, each with the boxes found and, thin and dark, the true ones."""
    samples, classes = {sample.id: sample for sample in table.samples}, table.classes
    ranked = sorted(((quality(case, classes, score), case.id, case) for case in cases), key=lambda each: each[:2])
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    parts = {
        "best": ranked[::-1][:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[:count],
    }
    sections = []
    for kind, chosen in parts.items():
        figures = []
        for value, _, case in chosen:
            sample = samples[case.id]
            image = read_image(sample.path, sample.crop)
            shown = case.found.take(case.found.scores >= score) if case.found.scores is not None else case.found
            picture = jpeg(box_picture(image, shown, classes, truth=case.truth, longest=900))
            caption = f"F1 {value:.2f}: {len(shown)} found, {len(case.truth)} true; patient {case.patient}"
            figures.append(Figure(case.id, caption, picture, wide=False))
        if figures:
            text = f"Ranked by F1 at IoU .5 and a score of {score:g}; true boxes are thin and dark."
            sections.append(Section(f"The {kind} images", text, tuple(figures), legend=classes))
    return sections


def _fitted(labels: LabelMap, picture: NDArray[np.uint8]) -> LabelMap:
    """A map that is a pixel larger or smaller than its picture, as sides are rounded; nothing is known beyond."""
    fitted: LabelMap = np.full(picture.shape[:2], IGNORE, np.uint8)
    h, w = (min(sides) for sides in zip(picture.shape, labels.shape, strict=False))
    fitted[:h, :w] = labels[:h, :w]
    return fitted


def pseudo_mask_table(run: Path, table: Manifest, console: Console) -> Table | None:
    """How good a run's pseudo-masks are on the training rows that have true masks, tap by tap; None if it has none."""
    masks = open_masks(run / "pseudo-masks")
    if masks is None:
        return None
    known = table.choose(lambda sample: sample.mask is not None and masks.holds(sample))
    if not known.samples:
        return None
    rows: list[tuple[Cell, ...]] = []
    for tap in masks.taps:
        scored = score_pseudo_masks(masks, tap, known, console.counter(f"scoring pseudo-masks {tap}"))
        numbers = summarise(scored.scores, table.classes).numbers
        by_class = [numbers[f"pooled/IoU/{name}"] for name in table.classes.names]
        rows.append((tap, numbers["pooled/mIoU"], numbers["pooled/ACC"], *by_class, round(scored.covered, 4)))
    columns = ("tap", "mIoU", "ACC", *(f"IoU {name}" for name in table.classes.names), "covered")
    note = (
        f"Pseudo-masks of {len(known.samples)} training images against their true masks, which the method never saw. "
        "Pixels at which a pseudo-mask says nothing are left out; covered is the share that is left."
    )
    return Table("Pseudo-masks", columns, tuple(rows), note)


def epoch_table(run: Path) -> Table:
    """How a run's validation score went from epoch to epoch: whether training was steady, or collapsed.

    Raises:
        HistillError: input (4) if the folder holds no finished stage.
    """
    rows: list[tuple[Cell, ...]] = []
    for path in sorted((run / "stages").glob("*/record.json")):
        record = read_record(path)
        scores = [score for score in (record.details["scores"] if record else []) if score is not None]
        if record is not None:
            course = ", ".join(f"{score:.3f}" for score in scores) or "nothing chosen: the last epoch is kept"
            spread = round(float(np.std(scores)), 4) if scores else None
            rows.append((path.parent.name, int(record.details["epochs"]), course, spread))
    if not rows:
        raise HistillError(
            "holds no finished stage",
            code=Exit.INPUT,
            subject=str(run),
            mend="Give the folder that 'histill train --run' wrote",
        )
    note = "The score on validation images after each epoch, the greater the better; the best epoch is kept."
    return Table("Epochs", ("stage", "epochs", "score after each", "standard deviation"), tuple(rows), note)


def pseudo_mask_figures(masks: PseudoMasks, table: Manifest, count: int) -> tuple[Figure, ...]:
    """A few training images with their truth, where known, and the pseudo-mask of every tap, deepest last."""
    many = [sample for sample in table.samples if len(sample.labels) > 1 and masks.holds(sample)]
    step = max(1, len(many) // max(count, 1))
    figures = []
    for sample in many[::step][:count]:
        panels: dict[str, LabelMap] = {}
        if sample.mask is not None:
            panels["truth"] = read_mask(sample, table.card, image_size(sample.path))
        panels |= {tap: masks.labels(tap, sample) for tap in masks.taps}
        picture = strip(read_image(sample.path, sample.crop), panels, table.classes, height=200)
        figures.append(Figure(sample.id, f"seen: the labels {', '.join(sample.labels)}; not seen: the truth", picture))
    return tuple(figures)
