"""Which epoch of a detector is kept: judged on validation images by average precision, never on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.data.pairs import PairBatch, Pairs
from histill.engine.box_method import boxes_of_found, objects_of
from histill.engine.run import Run
from histill.metrics.bootstrap import resample
from histill.metrics.detection import AREAS, IOUS, Matches, average_precision, match
from histill.metrics.segmentation import mean_defined
from histill.nets.detector import Detector, Found
from histill.slides.degrade import Scanner

Select = Literal["boxes", "last"]
"""boxes: AP.5:.95 of validation images."""

AT_ONCE = 4
"""Images in one call of the network."""

ALL = {"all": AREAS["all"]}


def box_selection(
    detector: Detector,
    val: Manifest | None,
    select: Select,
    run: Run,
    *,
    ratio: int,
    scanner: Scanner,
    high: bool = False,
) -> Callable[[], float] | None:
    """The AP.5:.95 of a detector on validation images, the greater the better; None to keep the last epoch.

    Args:
        detector: which.
        val: the images, each seen whole.
        select: what chooses.
        run: says on which device, and which processes share the work.
        ratio: how many times as coarse the low resolution is.
        scanner: what else the cheap scanner does.
        high: the detector looks at high resolution.

    Raises:
        HistillError: usage (2) if a row has no file of boxes.
    """
    if select == "last" or val is None:
        return None
    pairs, k = Pairs(val, AT_ONCE, ratio=ratio, scanner=scanner), len(val.classes)
    run.journal.say("selecting", by=select, samples=len(val.samples))
    return lambda: _score(detector, pairs, k, run, ratio, high)


@torch.no_grad()
def _score(detector: Detector, pairs: Pairs, k: int, run: Run, ratio: int, high: bool) -> float:
    detector.eval()
    own: list[list[dict[str, Any]]] = []
    # Several processes judge every n-th batch each, and put their finds together in the order of the batches.
    for batch in pairs.epoch(0, 0, begin=run.team.rank, step=run.team.size):
        images = batch.high if high else batch.low
        with run.fabric.autocast():
            found = detector.detect(images.to(run.fabric.device))
        own.append(_matched(batch, found, k, 1 if high else ratio))
    parts = run.team.gather(own)
    size = run.team.size
    cases = [_case(each) for number in range(len(pairs)) for each in parts[number % size][number // size]]
    precision = average_precision(cases, resample([""] * len(cases)))[0, 0].mean(0)  # [k]
    if np.isnan(precision).all():
        raise HistillError(
            "none of the validation images holds a box",
            code=Exit.USAGE,
            subject=str(pairs.manifest.path),
            mend="Give some that do, or set select to last",
        )
    return float(mean_defined(precision))


def _matched(batch: PairBatch, found: Sequence[Found], k: int, coarser: int) -> list[dict[str, Any]]:
    cases = []
    for truth, each in zip(objects_of(batch.boxes, batch.classes, coarser), found, strict=True):
        said = boxes_of_found(each)
        matches = match(boxes_of_found(Found(*truth, truth.classes.float() * 0)), said, k, areas=ALL)
        cases.append({name: value.tolist() for name, value in vars(matches).items()})
    return cases


def _case(values: dict[str, Any]) -> Matches:
    scores = np.array(values["scores"], np.float32)
    right, wrong = (np.array(values[name], bool).reshape(1, len(IOUS), len(scores)) for name in ("right", "wrong"))
    return Matches(np.array(values["classes"], np.int64), scores, right, wrong, np.array(values["truths"], np.int64))
