"""Gather the boxes found in a table's images or slides beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histill.core.boxes import Boxes, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.core.record import EMPTY
from histill.data.pairs import boxes_of
from histill.data.predicted import Predictions
from histill.engine.scoring import check_classes
from histill.metrics.objects import Case


@dataclass(frozen=True)
class BoxScores:
    """What was found in a set of images or slides.

    Attributes:
        cases: one per image that was predicted; on an empty slide nothing was found.
        quarantined: how many further ones were put aside.
    """

    cases: tuple[Case, ...]
    quarantined: int

    def of(self, ids: set[str]) -> BoxScores:
        """Those of some images."""
        return BoxScores(tuple(case for case in self.cases if case.id in ids), self.quarantined)


def require_boxes(folders: Sequence[Predictions]) -> None:
    """Raise a usage error where one of several folders of predictions holds no boxes."""
    for folder in folders:
        if folder.about.get("task") != "detect":
            raise HistillError(
                "it holds masks, the other boxes",
                code=Exit.USAGE,
                subject=str(folder.folder),
                mend="Compare predictions of one kind",
            )


def score_boxes(predictions: Predictions, rows: Manifest) -> BoxScores:
    """The boxes found in a table's rows, beside the true ones; rows without a file of boxes are an error.

    Raises:
        HistillError: usage (2) if a row has no boxes, or the classes are others; input (4) if a row was not predicted
            by this model, its file is another now, or all were put aside.
    """
    check_classes(predictions, rows)
    rows.require("boxes")
    classes, cases = rows.classes, []
    for sample in rows.samples:
        current, record = predictions.current_record(sample), predictions.record_of(sample)
        assert record is not None
        if current is None and record.status != EMPTY:
            continue
        found = Boxes.of([], [], [])
        if current is not None:
            file = predictions.folder / next(name for name in current.outputs if name.startswith("boxes/"))
            found = read_boxes(file, classes)
            # A file without boxes does not say that they would have scores.
            found = found if len(found) else Boxes.of([], [], [])
        if predictions.kind == "slides":
            assert sample.boxes is not None
            width, height = record.details["size"]
            truth, extent = read_boxes(sample.boxes, classes, (width, height)), record.details["columns"]["tissue_mm2"]
        else:
            truth, extent = boxes_of(sample, classes), 1.0
        cases.append(Case(sample.id, sample.patient or sample.id, truth, found, float(extent)))
    if not cases:
        raise HistillError("every row was put aside", code=Exit.INPUT, subject=str(predictions.folder))
    return BoxScores(tuple(cases), len(rows.samples) - len(cases))
