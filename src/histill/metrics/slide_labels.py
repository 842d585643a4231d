"""From what was said of slides to a report with intervals, and from two such lists to what beats what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.labels import Classes
from histill.core.report import Cell, Number, Report, Table
from histill.metrics.bootstrap import DRAWS, number, paired, resample
from histill.metrics.classification import measures

NOTE = (
    "The predicted class is that of the highest probability. The AUC of two classes is that of the second against the "
    "first; of more, the mean of each against all others. Brackets: 95 % interval over patients."
)


def report_slides(
    truth: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    patients: Sequence[str],
    classes: Classes,
    *,
    title: str,
    against: tuple[str, str, NDArray[np.floating[Any]]] | None = None,
    quarantined: int = 0,
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Report:
    """Everything there is to say about one prediction of slides' labels.

    Args:
        truth: classes, [n].
        probabilities: [n, k].
        patients: of each slide; the unit of the bootstrap.
        classes: in label order.
        title: what was evaluated.
        against: its name, another's, and the other's probabilities of the same slides: the paired difference.
        quarantined: how many further slides were put aside.
        warnings: shown first.
        settings: repeated at the end.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        numbers `slides/{AUC,balanced accuracy,macro F1,ACC}` and, where there is another, `difference/...`.

    Raises:
        HistillError: input (4) as `classification.measures`.
    """
    resampling = resample(patients, seed=seed, draws=draws)
    mine = measures(truth, probabilities, resampling)
    n = len(truth)
    numbers = {f"slides/{name}": number(replicates, n) for name, replicates in mine.items()}
    numbers |= {"cases/slides": Number(n, n), "cases/patients": Number(resampling.patients, n)}
    tables = [
        Table("Slides", ("measure", "value", "slides"), tuple((m, numbers[f"slides/{m}"], n) for m in mine), NOTE),
        _confusion(truth, probabilities, classes),
    ]
    if against is not None:
        name, other, theirs = against
        rows = []
        for measure, replicates in measures(truth, theirs, resampling).items():
            found = paired(mine[measure], replicates, n, names=(name, other))
            numbers[f"difference/{measure}"] = found.number
            rows.append((measure, numbers[f"slides/{measure}"], number(replicates, n), found.number, found.verdict))
        columns = ("measure", name, other, "difference", "verdict")
        tables.append(Table(f"{name} against {other}", columns, tuple(rows)))
    own = [f"{quarantined} slides were put aside and are not scored"] if quarantined else []
    if resampling.patients < 2:
        own.append("There is no interval: the slides come from fewer than two patients")
    return Report(
        title=title,
        numbers=numbers,
        tables=tuple(tables),
        warnings=(*warnings, *own),
        settings={**(settings or {}), "bootstrap": {"unit": "patient", "draws": draws, "seed": seed}},
    )


def _confusion(truth: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], classes: Classes) -> Table:
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (truth, probabilities.argmax(1)), 1)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, *row) for name, row in zip(classes.names, counts.tolist(), strict=True)
    )
    return Table("What was said of slides of each class", ("true class", *classes.names), rows)
