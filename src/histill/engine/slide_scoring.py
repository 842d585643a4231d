"""Score the label maps of whole slides against their truth, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from histill.core.geometry import Frame
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.core.record import QUARANTINED
from histill.data.predicted import Predictions
from histill.data.truth import nearest, open_truth
from histill.engine.scoring import Scored, check_classes
from histill.formats.maps import open_labels
from histill.metrics.segmentation import confusion, hd95
from histill.metrics.summary import ImageScore

ROWS = 512
MOST_FOR_OUTLINES = 30_000_000
"""HD95 needs the whole map at once: slides with more pixels, at the spacing of evaluation, go without."""


def score_slides(
    predictions: Predictions, table: Manifest, mpp: float | None, progress: Callable[[int, int], None] | None = None
) -> Scored:
    """Score slides at a stated spacing.

    Tissue that was not predicted is a miss of its class; on an empty slide all of it is.

    Args:
        predictions: of slides.
        table: their truth: label maps, or outlines as GeoJSON or ASAP XML.
        mpp: um/px at which pixels are compared; None for the spacing of each prediction.
        progress: called with (slides done, slides in all).
    """
    check_classes(predictions, table)
    table.require("mask")
    scores = []
    quarantined = 0
    for done, sample in enumerate(table.samples, 1):
        record = predictions.record_of(sample)
        file = predictions.file_of(sample)
        if record is None or record.status == QUARANTINED:
            quarantined += 1
        else:
            scores.append(_score(file, record.details, sample, table, mpp))
        if progress is not None:
            progress(done, len(table.samples))
    return Scored(scores, quarantined, 1.0)


def _score(
    file: Path | None, details: dict[str, Any], sample: Sample, table: Manifest, mpp: float | None
) -> ImageScore:
    classes = table.classes
    k = len(classes)
    width, height = (int(side) for side in details["size"])
    level0 = float(details["level0_mpp"])
    assert sample.mask is not None
    with ExitStack() as files:
        predicted = files.enter_context(open_labels(file)) if file else None
        truth = files.enter_context(open_truth(sample.mask, table.card, (width, height)))
        own = Frame(width, height, level0, float(details["mpp"]))
        frame = Frame(width, height, level0, mpp or own.mpp)
        rows, columns = frame.shape
        whole = rows * columns <= MOST_FOR_OUTLINES
        counts = np.zeros((k, k + 1), np.int64)
        kept = []
        for top in range(0, rows, ROWS):
            count = min(ROWS, rows - top)
            known = truth.band(frame, top, count)
            found = nearest(predicted, own.scale, frame, top, count) if predicted else np.full_like(known, IGNORE)
            if classes.background is not None:
                found[found == IGNORE] = classes.index(classes.background)
            counts += confusion(known, found, k, gaps=True)
            if whole:
                kept.append((known, found))
    distance = np.full(k, np.nan)
    if kept:
        known, found = (np.concatenate(maps) for maps in zip(*kept, strict=True))
        distance = hd95(known, found, k)
    return ImageScore(sample.id, sample.patient or sample.id, counts, distance, frame.mpp)
