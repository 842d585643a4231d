"""Score what was said of bags against the labels of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.data.predicted import Predictions
from histill.engine.bag_predictions import PROBABILITY
from histill.engine.scoring import check_classes


@dataclass(frozen=True, eq=False)
class SlideScores:
    """What was said of slides, and what is true of them.

    Attributes:
        ids: of the slides.
        truth: their classes, int64 [n].
        probabilities: float64 [n, k].
        patients: whom they came from.
        quarantined: how many further slides were put aside.
    """

    ids: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    patients: tuple[str, ...]
    quarantined: int

    def of(self, ids: set[str]) -> SlideScores:
        """Those of some slides."""
        rows = [i for i, name in enumerate(self.ids) if name in ids]
        return SlideScores(
            tuple(self.ids[i] for i in rows),
            self.truth[rows],
            self.probabilities[rows],
            tuple(self.patients[i] for i in rows),
            self.quarantined,
        )


def score_bags(predictions: Predictions, rows: Manifest) -> SlideScores:
    """Gather what was said of a table's bags; rows without a label are an error.

    Raises:
        HistillError: usage (2) if a row has no label, or the classes are others; input (4) if a row was not predicted
            by this model, its bag is another now, or all were put aside.
    """
    check_classes(predictions, rows)
    rows.require("labels")
    names = rows.classes.names
    ids, truth, said, patients = [], [], [], []
    for sample in rows.samples:
        record = predictions.current_record(sample)
        if record is None:
            continue
        columns = record.details["columns"]
        ids.append(sample.id)
        truth.append(rows.classes.index(sample.labels[0]))
        said.append([columns[f"{PROBABILITY}{name}"] for name in names])
        patients.append(sample.patient)
    if not ids:
        raise HistillError("every bag was put aside", code=Exit.INPUT, subject=str(predictions.folder))
    left_out = len(rows.samples) - len(ids)
    return SlideScores(tuple(ids), np.array(truth, np.int64), np.array(said), tuple(patients), left_out)
