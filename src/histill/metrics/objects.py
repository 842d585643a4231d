"""From matched boxes to a report with intervals, and from two such lists to what beats what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histill.core.boxes import Boxes
from histill.core.labels import Classes
from histill.core.report import Cell, Number, Report, Table
from histill.metrics.bootstrap import DRAWS, Resampling, number, paired, resample
from histill.metrics.detection import (
    RATES,
    Floats,
    Matches,
    at_score,
    average_precision,
    match,
    measures,
    sensitivity_at,
)
from histill.metrics.segmentation import mean_defined

NOTE = (
    "AP is the mean over the IoU thresholds .5 to .95 and over classes, as COCO has it; AP50 and AP75 are at one "
    "threshold. Sizes are thirds of the true boxes. Brackets: 95 % interval over patients."
)

THIRDS = ("small", "medium", "large")


@dataclass(frozen=True, eq=False)
class Case:
    """One image or slide: what is true of it, what was found, whom it came from.

    Attributes:
        id: its name.
        patient: the unit of the bootstrap.
        truth: true boxes.
        found: with scores.
        extent: its tissue in mm2 for a slide, 1 for an image: false positives are told per unit.
    """

    id: str
    patient: str
    truth: Boxes
    found: Boxes
    extent: float = 1.0


def size_ranges(truths: Sequence[Boxes]) -> dict[str, tuple[float, float]]:
    """The ranges of area in square pixels that AP is told for: all, and thirds of the true boxes.

    Where all true boxes are of one size, or there are none, all alone.
    """
    areas = np.sort(np.concatenate([boxes.areas for boxes in truths]) if truths else np.zeros(0))
    ranges = {"all": (0.0, np.inf)}
    if len(areas) and areas[0] < areas[-1]:
        low, high = (float(np.quantile(areas, share)) for share in (1 / 3, 2 / 3))
        # Both ends of a range count: one of equal sizes would stand in two.
        edges = (0.0, low, np.nextafter(low, np.inf), high, np.nextafter(high, np.inf), np.inf)
        ranges |= {name: (float(edges[2 * i]), float(edges[2 * i + 1])) for i, name in enumerate(THIRDS)}
    return ranges


def report_objects(
    cases: Sequence[Case],
    classes: Classes,
    *,
    title: str,
    score: float,
    unit: str = "image",
    most: int | None = None,
    against: tuple[str, str, Sequence[Case]] | None = None,
    quarantined: int = 0,
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Report:
    """Everything there is to say about the boxes found in a set of images or slides.

    Args:
        cases: what was found.
        classes: in label order.
        title: what was evaluated.
        score: at which precision and recall are told.
        unit: of which false positives are counted: image, or mm2.
        most: found boxes of a class in an image that count; None for all.
        against: its name, another's, and the other's finds of the same images in the same order: the paired difference.
        quarantined: how many further images were put aside.
        warnings: shown first.
        settings: repeated at the end.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        numbers `objects/{AP,AP50,AP75,AP small,...}`, `objects/sensitivity at <rate>/<unit>`,
        `objects/{precision,recall,F1}` and, where there is another, `difference/...`.

    Raises:
        HistillError: input (4) as `detection.match`.
    """
    ranges = size_ranges([case.truth for case in cases])
    resampling = resample([case.patient for case in cases], seed=seed, draws=draws)
    mine = _measured(_matched(cases, classes, ranges, most), cases, resampling, classes, ranges, score, unit)
    n = len(cases)
    numbers = {f"objects/{name}": number(replicates, n) for name, replicates in mine.items()}
    numbers |= {"cases/images": Number(n, n), "cases/patients": Number(resampling.patients, n)}
    numbers["cases/true boxes"] = Number(sum(len(case.truth) for case in cases), n)
    tables = [
        _rows("Boxes", [name for name in mine if "/" not in name and "sensitivity" not in name], numbers, NOTE),
        _rows(
            "False positives and sensitivity (FROC)",
            [name for name in mine if name.startswith("sensitivity")],
            numbers,
            f"The share of true boxes found at IoU .5, at the score that gives so many false positives per {unit}.",
        ),
    ]
    if len(classes) > 1:
        named = [name for name in mine if "/" in name and not name.startswith("sensitivity")]
        tables.append(_rows("Boxes by class", named, numbers, ""))
    if against is not None:
        name, other, others = against
        theirs = _measured(_matched(others, classes, ranges, most), others, resampling, classes, ranges, score, unit)
        rows: list[tuple[Cell, ...]] = []
        for measure, replicates in theirs.items():
            found = paired(mine[measure], replicates, n, names=(name, other))
            numbers[f"difference/{measure}"] = found.number
            rows.append((measure, numbers[f"objects/{measure}"], number(replicates, n), found.number, found.verdict))
        columns = ("measure", name, other, "difference", "verdict")
        tables.append(Table(f"{name} against {other}", columns, tuple(rows)))
    own = [f"{quarantined} were put aside and are not scored"] if quarantined else []
    if resampling.patients < 2:
        own.append("There is no interval: all come from fewer than two patients")
    bounds = {
        name: [round(low**0.5, 1), None if np.isinf(high) else round(high**0.5, 1)]
        for name, (low, high) in ranges.items()
        if name != "all"
    }
    return Report(
        title=title,
        numbers=numbers,
        tables=tuple(tables),
        warnings=(*warnings, *own),
        settings={
            **(settings or {}),
            "score of precision and recall": score,
            "sizes (root of the area in px)": bounds,
            "bootstrap": {"unit": "patient", "draws": draws, "seed": seed},
        },
    )


def quality(case: Case, classes: Classes, score: float) -> float:
    """F1 of one image at IoU .5 and a score; 1 where nothing is true and nothing was found."""
    found = at_score([match(case.truth, case.found, len(classes))], resample([""]), score)["F1"][0]
    value = float(mean_defined(found))
    return 1.0 if np.isnan(value) else value


def _matched(
    cases: Sequence[Case], classes: Classes, ranges: Mapping[str, tuple[float, float]], most: int | None
) -> list[Matches]:
    return [match(case.truth, case.found, len(classes), areas=ranges, most=most) for case in cases]


def _measured(
    found: Sequence[Matches],
    cases: Sequence[Case],
    resampling: Resampling,
    classes: Classes,
    ranges: Mapping[str, tuple[float, float]],
    score: float,
    unit: str,
) -> dict[str, Floats]:
    """Every measure, for each draw."""
    measured = measures(average_precision(found, resampling), classes, tuple(ranges))
    extents = [case.extent for case in cases]
    froc = mean_defined(sensitivity_at(found, resampling, RATES, extents=extents))  # [1 + draws, r]
    measured |= {f"sensitivity at {rate:g}/{unit}": froc[:, i] for i, rate in enumerate(RATES)}
    return measured | {name: mean_defined(each) for name, each in at_score(found, resampling, score).items()}


def _rows(title: str, names: Sequence[str], numbers: Mapping[str, Number], note: str) -> Table:
    return Table(title, ("measure", "value"), tuple((name, numbers[f"objects/{name}"]) for name in names), note)
