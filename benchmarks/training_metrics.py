"""The metrics of label maps against torchmetrics and surface-distance, and against a slow, obvious version."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from histill.core.labels import IGNORE
from histill.metrics.segmentation import class_iou, confusion, hd95

K = 5
SIDE = 10_000
OTHER_SIDE = 5_000
OUTLINES = ((224, 60), (224, 30), (224, 15), (1000, 100), (2000, 200))
"""Side of the image, and about how wide its regions are, in px."""

Labels = NDArray[np.uint8]


def metrics() -> dict[str, Any]:
    """Confusion matrices and outline distances."""
    with warnings.catch_warnings(action="ignore"):
        return {
            "confusion": _confusion(),
            "confusion by map": _by_map(),
            "outlines": [_outlines(side, width) for side, width in OUTLINES],
            "versions": {name: version(name) for name in ("torchmetrics", "surface-distance", "scipy")},
        }


def _confusion() -> dict[str, Any]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

    truth, predicted = maps(SIDE, 100)
    small = torch.from_numpy(predicted), torch.from_numpy(truth)
    large = tuple(each.long() for each in small)
    same: dict[str, Any] = {"num_classes": K, "ignore_index": IGNORE}
    times, results = in_turn(
        {
            "histill": lambda: confusion(truth, predicted, K),
            "torchmetrics, int64": lambda: multiclass_confusion_matrix(*large, **same),
            "torchmetrics, uint8": lambda: multiclass_confusion_matrix(*small, **same),
            "torchmetrics, uint8, labels not checked": lambda: multiclass_confusion_matrix(
                *small, validate_args=False, **same
            ),
        },
        turns=2,
    )
    table = results["histill"]
    iou = multiclass_jaccard_index(*small, average="none", validate_args=False, **same).numpy()
    return {
        "side": SIDE,
        "classes": K,
        "seconds": times,
        "equal": all(bool((np.asarray(each) == table).all()) for each in results.values()),
        "largest difference of IoU": float(np.abs(iou - class_iou(table)).max()),
    }


def _by_map() -> dict[str, float]:
    """Seconds a pixel of histill alone: they depend on how often labels change."""
    random = np.random.default_rng(1)
    found = {}
    for width in (400, 100, 30):
        truth, predicted = maps(OTHER_SIDE, width)
        found[f"regions of {width} px"] = _alone(truth, predicted)
        if width == 100:
            predicted[random.integers(0, 100, predicted.shape, np.uint8) == 0] = 0
            found["regions of 100 px, one in 100 predicted pixels set to a class"] = _alone(truth, predicted)
    found["noise: every pixel drawn by itself"] = _alone(*random.integers(0, K, (2, OTHER_SIDE, OTHER_SIDE), np.uint8))
    return found


def _alone(truth: Labels, predicted: Labels) -> float:
    return in_turn({"": lambda: confusion(truth, predicted, K)}, turns=5)[0][""] / truth.size


def _outlines(side: int, width: int) -> dict[str, Any]:
    from surface_distance import compute_robust_hausdorff, compute_surface_distances

    truth, predicted = maps(side, width)
    valid = truth != IGNORE
    masks = [(truth == c, (predicted == c) & valid) for c in range(K)]
    ways: dict[str, Callable[[], Any]] = {
        "histill": lambda: hd95(truth, predicted, K),
        "surface-distance": lambda: [
            compute_robust_hausdorff(compute_surface_distances(*pair, (1.0, 1.0)), 95) for pair in masks
        ],
        "obvious": lambda: [obvious_hd95(*pair) for pair in masks],
    }
    times, results = in_turn(ways, turns=9 if side < 500 else 3)
    found = {name: np.array(each) for name, each in results.items()}
    return {
        "side": side,
        "width": width,
        "classes": K,
        "seconds": times,
        "largest difference from the obvious": float(np.abs(found["histill"] - found["obvious"]).max()),
        "median difference from surface-distance": float(
            np.median(np.abs(found["histill"] - found["surface-distance"]))
        ),
    }


def obvious_hd95(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The definition, word for word: outlines by erosion, distance maps of the whole image, two percentiles."""
    one, other = (mask & ~ndimage.binary_erosion(mask) for mask in (first, second))
    to_other, to_one = (ndimage.distance_transform_edt(~outline) for outline in (other, one))
    return float(max(np.percentile(to_other[one], 95), np.percentile(to_one[other], 95)))


def maps(side: int, width: int) -> tuple[Labels, Labels]:
    """A made-up truth, a strip of it not known, and a prediction that is a few pixels off; uint8 [side, side]."""
    random = np.random.default_rng(0)
    cells = max(side // width, 4)
    best: Any = np.full((side, side), -1, np.float32)
    truth = np.zeros((side, side), np.uint8)
    for c in range(K):  # one class at a time: all together would take gigabytes
        heights = cv2.resize(random.random((cells, cells), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        higher = heights > best
        best[higher], truth[higher] = heights[higher], c
    predicted = np.roll(truth, (max(side // 500, 2), 3), (0, 1))
    truth[: side // 50] = IGNORE
    return truth, predicted


def in_turn(ways: dict[str, Callable[[], Any]], turns: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of the processor of each way, taken in turn, and what each gave."""
    results: dict[str, Any] = {}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            results[name], _, processor = timed(way)
            times[name].append(processor)
    return {name: statistics.median(each) for name, each in times.items()}, results


def timed(deed: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a deed gives, its seconds on the clock, and of the processor, all threads together."""
    clock, processor = time.perf_counter(), time.process_time()
    given = deed()
    return given, time.perf_counter() - clock, time.process_time() - processor
