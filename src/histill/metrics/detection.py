"""How well objects are found: COCO's average precision, FROC, precision and recall, with patient-level intervals.

Rules that hold for all of it:

- A found and a true box of one class match if their intersection over union (IoU) reaches a threshold. In each image
  the found boxes choose one after the other, by falling score; each takes the free true box that it overlaps most. Of
  equal scores the earlier box chooses first; of equal overlaps it takes the later box (as pycocotools does).
- Under a range of areas, a true box outside of it counts nowhere, nor does a found box that only such a box is left
  for, nor an unmatched one which is itself outside.
- AP is the mean over recalls of 0, 0.01, ..., 1 of the highest precision at that recall or above, 0 where it is not
  reached. AP.5:.95 is the mean over ten IoU thresholds (Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation).
- A class without a true box has no AP and no sensitivity (nan), and means over classes leave it out.

Boxes are matched once; for every bootstrap draw only the counts of true and false finds are added up again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.boxes import Boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.report import Number
from histill.metrics.bootstrap import DRAWS, Resampling, number, resample
from histill.metrics.segmentation import mean_defined

Floats = NDArray[np.float64]

IOUS = tuple(float(iou) for iou in np.linspace(0.5, 0.95, 10))
"""COCO's thresholds, to their last bit."""

AREAS: Mapping[str, tuple[float, float]] = {
    "all": (0, np.inf),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, np.inf),
}
"""COCO's ranges of area in square pixels, both ends included."""

MOST = 100
"""Found boxes of one class that COCO counts in an image, those of the highest scores."""

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
"""False positives per image at which FROC curves are read (LUNA16's)."""

RECALLS: Floats = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """Which found boxes of one image are right, for a ranges of area and t IoU thresholds.

    Attributes:
        classes: int64 [n] of the found boxes that count, class by class.
        scores: float32 [n], falling within a class.
        right: bool [a, t, n], matched with a true box in the range.
        wrong: bool [a, t, n]; neither right nor wrong is what the range leaves out.
        truths: int64 [a, k], true boxes in the range.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    truths: NDArray[np.int64]


def overlaps(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """IoU of every box of one list with every box of the other.

    Args:
        first: corners x0, y0, x1, y1 [n, 4].
        second: corners [m, 4].

    Returns:
        float64 [n, m].
    """
    one, other = first.astype(np.float64)[:, None], second.astype(np.float64)[None]  # [n, 1, 4], [1, m, 4]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])  # [n, m, 2]
    shared: Floats = np.maximum(sides, 0).prod(-1)  # [n, m]
    together: Floats = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared
    return shared / together


def match(
    truth: Boxes,
    found: Boxes,
    k: int,
    *,
    ious: Sequence[float] = IOUS,
    areas: Mapping[str, tuple[float, float]] = AREAS,
    most: int | None = MOST,
) -> Matches:
    """Match the found boxes of one image with its true ones.

    Args:
        truth: the true boxes.
        found: the found ones, with scores.
        k: number of classes.
        ious: the t thresholds.
        areas: the a ranges, in square pixels of the boxes, by name.
        most: found boxes of a class that count; None for all.

    Raises:
        HistillError: input (4) if found boxes have no scores, or a class is none of the k.
    """
    if found.scores is None:
        raise HistillError("found boxes have no scores", code=Exit.INPUT, subject="prediction")
    for name, boxes in (("truth", truth), ("prediction", found)):
        if len(boxes) and int(boxes.classes.max()) >= k:
            what = f"class {boxes.classes.max()} is none of the {k} classes"
            raise HistillError(what, code=Exit.INPUT, subject=name, mend=f"Classes are 0 to {k - 1}")
    thresholds, ranges = np.asarray(ious, np.float64), np.asarray(list(areas.values()), np.float64)  # [t], [a, 2]
    truths, kept, right, wrong = np.zeros((len(ranges), k), np.int64), [], [], []
    for c in range(k):
        own = np.flatnonzero(found.classes == c)
        own = own[np.argsort(-found.scores[own], kind="stable")][:most]
        true = truth.take(truth.classes == c)
        counts = _within(true, ranges)  # [a, m]
        truths[:, c] = counts.sum(1)
        taken = _choose(overlaps(found.corners[own], true.corners), counts, thresholds)  # [a, t, n]
        within = _within(found.take(own), ranges)[:, None]  # [a, 1, n]
        # The last column is for what is not matched.
        in_range = np.pad(counts, ((0, 0), (0, 1)))[np.arange(len(ranges))[:, None, None], taken]  # [a, t, n]
        kept.append(own)
        right.append(in_range)
        wrong.append((taken < 0) & within)
    order = np.concatenate(kept)
    return Matches(
        found.classes[order], found.scores[order], np.concatenate(right, -1), np.concatenate(wrong, -1), truths
    )


def average_precision(cases: Sequence[Matches], resampling: Resampling) -> Floats:
    """AP of each class, as it is and for every draw of patients.

    Args:
        cases: one per image.
        resampling: of the images' patients.

    Returns:
        float64 [1 + draws, a, t, k]; nan where a class has no true box.

    Raises:
        HistillError: input (4) if there is no image, or their numbers differ.
    """
    a, t, k = _check(cases, resampling)
    truths = resampling.sums(np.stack([case.truths for case in cases]))  # [1 + draws, a, k]
    found = np.full((len(truths), a, t, k), np.nan)
    for c in range(k):
        _, case, right, wrong = _ranked(cases, c)
        for i, j in np.ndindex(a, t):
            ends = np.flatnonzero(right[i, j])
            hits, misses = _counted(resampling, case, right[i, j], wrong[i, j], ends)
            found[:, i, j, c] = _area(hits, misses, truths[:, i, c])
    return found


def sensitivity_at(
    cases: Sequence[Matches],
    resampling: Resampling,
    rates: Sequence[float] = RATES,
    *,
    extents: Sequence[float] | None = None,
    area: int = 0,
    iou: int = 0,
) -> Floats:
    """FROC: the share of true boxes found at the lowest score that gives no more false positives than allowed.

    Boxes of one score come in together. Nothing is interpolated.

    Args:
        cases: one per image.
        resampling: of the images' patients.
        rates: false positives per unit, r of them.
        extents: of each image in units, such as its tissue in mm2; left out, each image is one unit.
        area: which of the ranges of area.
        iou: which of the thresholds.

    Returns:
        float64 [1 + draws, r, k]; nan where a class has no true box.

    Raises:
        HistillError: input (4) if there is no image, or their numbers differ.
    """
    _, _, k = _check(cases, resampling)
    truths = resampling.sums(np.stack([case.truths[area] for case in cases]))  # [1 + draws, k]
    allowed = np.outer(resampling.sums(np.ones(len(cases)) if extents is None else np.asarray(extents)), rates)
    found = np.zeros((len(truths), len(rates), k))
    for c in range(k):
        scores, case, right, wrong = _ranked(cases, c)
        last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
        hits, misses = _counted(resampling, case, right[area, iou], wrong[area, iou], np.flatnonzero(last))
        for r in range(len(rates)):
            fits = misses <= allowed[:, r, None]  # [1 + draws, scores]
            found[:, r, c] = np.where(fits, hits, 0).max(1, initial=0)
    return _ratio(found, truths[:, None])


def at_score(
    cases: Sequence[Matches], resampling: Resampling, score: float, *, area: int = 0, iou: int = 0
) -> dict[str, Floats]:
    """Precision, recall and F1 of the boxes of at least a score, as they are and for every draw of patients.

    Args:
        cases: one per image.
        resampling: of the images' patients.
        score: the lowest that counts.
        area: which of the ranges of area.
        iou: which of the thresholds.

    Returns:
        float64 [1 + draws, k] by name: `precision` (nan where nothing is found), `recall` (nan without a true box),
        `F1` (nan with neither).

    Raises:
        HistillError: input (4) if there is no image, or their numbers differ.
    """
    _, _, k = _check(cases, resampling)
    counts = np.zeros((len(cases), 3, k))
    for row, case in zip(counts, cases, strict=True):
        for c in range(k):
            shown = (case.classes == c) & (case.scores >= score)
            row[:, c] = case.right[area, iou, shown].sum(), case.wrong[area, iou, shown].sum(), case.truths[area, c]
    hits, misses, truths = np.moveaxis(resampling.sums(counts), 1, 0)  # [1 + draws, k]
    found = hits + misses
    return {
        "precision": _ratio(hits, found),
        "recall": _ratio(hits, truths),
        "F1": _ratio(2 * hits, found + truths),
    }


def detection_numbers(
    cases: Sequence[Matches],
    patients: Sequence[str],
    classes: Classes,
    *,
    areas: Sequence[str] = tuple(AREAS),
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Number]:
    """Average precision of one prediction of a set of images, with intervals.

    Args:
        cases: one per image, matched at `IOUS` and the ranges `areas` names.
        patients: of each image.
        classes: in label order.
        areas: names of the ranges of area; the first is called nothing.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        By name `AP`, `AP50`, `AP75`, `AP small` and so on, and `AP/<class>`, `AP50/<class>`, `AP75/<class>`.

    Raises:
        HistillError: input (4) if there is no image, or their numbers differ.
    """
    measured = measures(average_precision(cases, resample(patients, seed=seed, draws=draws)), classes, areas)
    return {name: number(replicates, len(cases)) for name, replicates in measured.items()}


def measures(precision: Floats, classes: Classes, areas: Sequence[str] = tuple(AREAS)) -> dict[str, Floats]:
    """The measures that papers report, for every draw; two predictions of the same images can be `paired`.

    Args:
        precision: of `average_precision` at `IOUS`, [1 + draws, a, 10, k].
        classes: in label order.
        areas: names of the ranges of area; the first is called nothing.

    Returns:
        float64 [1 + draws], by the names of `detection_numbers`.
    """
    kinds = {"AP": precision[:, 0].mean(1), "AP50": precision[:, 0, 0], "AP75": precision[:, 0, 5]}  # [1 + draws, k]
    found = {name: mean_defined(values) for name, values in kinds.items()}
    found |= {f"AP {area}": mean_defined(precision[:, i].mean(1)) for i, area in enumerate(areas) if i}
    for name, values in kinds.items():
        found |= {f"{name}/{each}": values[:, c] for c, each in enumerate(classes.names)}
    return found


def _choose(overlap: Floats, counts: NDArray[np.bool_], ious: Floats) -> NDArray[np.intp]:
    """The true box that each found one takes, intp [a, t, n], -1 for none; overlaps [n, m], counts [a, m]."""
    n, m = overlap.shape
    taken = np.full((len(counts), len(ious), n), -1)
    if not m:
        return taken
    # Places in the order of overlap, so that those that count can be put before all others without rounding.
    places = overlap.argsort(1, kind="stable").argsort(1) + 1  # [n, m]
    free = np.ones((len(counts), len(ious), m), bool)
    for row in np.flatnonzero(overlap.max(1) >= ious.min()):
        fits = free & (overlap[row] >= ious[:, None])  # [a, t, m]
        worth = np.where(fits, places[row] + m * counts[:, None], 0)
        best = worth.argmax(-1)  # [a, t]
        one, other = np.nonzero(worth.max(-1))
        taken[one, other, row] = best[one, other]
        free[one, other, best[one, other]] = False
    return taken


def _within(boxes: Boxes, ranges: Floats) -> NDArray[np.bool_]:
    """Whether each box lies in each range of area, bool [a, n]."""
    corners = boxes.corners.astype(np.float64)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    within: NDArray[np.bool_] = (areas >= ranges[:, :1]) & (areas <= ranges[:, 1:])
    return within


def _ranked(
    cases: Sequence[Matches], c: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.bool_], NDArray[np.bool_]]:
    """A class's found boxes of all images by falling score: scores [n], images [n], right and wrong [a, t, n]."""
    own = [case.classes == c for case in cases]
    scores = np.concatenate([case.scores[mine] for case, mine in zip(cases, own, strict=True)])
    image = np.repeat(np.arange(len(cases)), [np.count_nonzero(mine) for mine in own])
    right, wrong = (
        np.concatenate([getattr(case, kind)[..., mine] for case, mine in zip(cases, own, strict=True)], -1)
        for kind in ("right", "wrong")
    )
    order = np.argsort(-scores, kind="stable")
    return scores[order], image[order], right[..., order], wrong[..., order]


def _counted(
    resampling: Resampling,
    image: NDArray[np.intp],
    right: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
    ends: NDArray[np.intp],
) -> tuple[Floats, Floats]:
    """Right and wrong boxes up to and with each of the ends, places among the ranked; float64 [1 + draws, e] each."""
    block, patient = np.searchsorted(ends, np.arange(len(image))), resampling.patient[image]
    counted = []
    for kind in (right, wrong):
        counts = np.zeros((len(ends) + 1, resampling.patients))
        np.add.at(counts, (block[kind], patient[kind]), 1)
        counted.append(resampling.weights @ counts[:-1].cumsum(0).T)  # [1 + draws, e]
    return counted[0], counted[1]


def _area(hits: Floats, misses: Floats, truths: Floats) -> Floats:
    """AP [m] from the counts at each right box, [m, e] each, and the true boxes [m]."""
    # Between two right boxes precision only falls, so nothing else need be looked at.
    precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=hits > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # highest at this recall or above
    recall = _ratio(hits, truths[:, None])
    reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right")  # [m, e]
    area: Floats = (np.diff(reached, prepend=0, axis=1) * precision).sum(1) / len(RECALLS)
    return np.where(truths > 0, area, np.nan)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotient of the two, nan where the lower one is zero."""
    above, below = np.broadcast_arrays(above, below)
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _check(cases: Sequence[Matches], resampling: Resampling) -> tuple[int, int, int]:
    """Ranges of area, thresholds, classes."""
    if not cases or len(cases) != len(resampling.patient):
        what = f"{len(cases)} images for the patients of {len(resampling.patient)}"
        raise HistillError(what, code=Exit.INPUT, subject="prediction", mend="Give each image once")
    return (*cases[0].right.shape[:2], cases[0].truths.shape[1])
