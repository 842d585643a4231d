"""Score label maps on disk, a method's predictions or its pseudo-masks, against the true masks of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.core.masks import LabelMap
from histill.data.images import MaskCache
from histill.data.predicted import Predictions
from histill.metrics.summary import ImageScore, score_image
from histill.pseudo.masks import PseudoMasks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scored:
    """Scores of a set of images.

    Attributes:
        scores: one per image with a prediction and a truth.
        quarantined: how many images were put aside when predicting.
        covered: share of the true pixels at which the masks say something; 1 for predictions.
    """

    scores: list[ImageScore]
    quarantined: int
    covered: float


def score_predictions(predictions: Predictions, table: Manifest, progress: Progress | None = None) -> Scored:
    """Score predictions of a table's rows against their true masks; rows without a mask are an error."""
    check_classes(predictions, table)
    table.require("mask")
    return _score(table, predictions.mask_of, progress)


def check_classes(predictions: Predictions, table: Manifest) -> None:
    """Raise a usage error where predictions and table do not know the same classes in the same order."""
    if predictions.classes != table.classes.names:
        raise HistillError(
            f"the predictions know {', '.join(predictions.classes)}; the table {', '.join(table.classes.names)}",
            code=Exit.USAGE,
            subject=str(predictions.folder),
            mend="Use a table with the classes, in the order, of the training table",
        )


def score_pseudo_masks(masks: PseudoMasks, tap: str, table: Manifest, progress: Progress | None = None) -> Scored:
    """Score the pseudo-masks of one tap, without HD95; where they say nothing is left out, and told by `covered`."""
    return _score(table, lambda sample: masks.labels(tap, sample), progress, pseudo=True)


def _score(
    table: Manifest, mask_of: Callable[[Sample], LabelMap | None], progress: Progress | None, *, pseudo: bool = False
) -> Scored:
    scores = []
    truths = MaskCache(table.card)
    quarantined = 0
    true_pixels = covered = 0
    for done, sample in enumerate(table.samples):
        predicted = mask_of(sample)
        if predicted is None:
            quarantined += 1
            continue
        truth = truths.read(sample)
        if pseudo and truth.shape == predicted.shape:
            silent = predicted == IGNORE
            true_pixels += int((truth != IGNORE).sum())
            truth = np.where(silent, np.uint8(IGNORE), truth)
            predicted = np.where(silent, np.uint8(0), predicted)
            covered += int((truth != IGNORE).sum())
        scores.append(score_image(sample, truth, predicted, len(table.classes), outlines=not pseudo))
        if progress is not None:
            progress(done + 1, len(table.samples))
    return Scored(scores, quarantined, covered / max(true_pixels, 1) if pseudo else 1.0)


def rows_of(predictions: Iterable[Predictions], table: Manifest) -> Manifest:
    """The rows of a table that every folder of predictions was asked for.

    Raises:
        HistillError: usage (2) if there are none.
    """
    folders = list(predictions)
    chosen = table.choose(lambda sample: all(folder.record_of(sample) for folder in folders))
    if not chosen.samples:
        raise HistillError(
            "none of the table's rows was predicted",
            code=Exit.USAGE,
            subject=str(table.path),
            mend="Give the table that the predictions were made from",
        )
    return chosen
