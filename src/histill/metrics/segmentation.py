"""How well a label map agrees with the truth: confusion matrix, IoU, Dice, accuracy, and the distance of outlines.

Rules that hold for all of it:

- Pixels whose truth is IGNORE are left out, whatever was predicted there. A prediction of an image is never IGNORE;
  that of a slide is, where no tissue was seen, and such a pixel is a miss of its true class and a find of none.
- A confusion matrix counts pixels; its rows are the truth, its columns the prediction. The measures made from it take
  any number of leading axes, so one call serves one image, a data set, or thousands of bootstrap draws. Where pixels
  may have no prediction there is one column more, which counts them.
- A class that stands neither in the truth nor in the prediction has no IoU and no Dice (nan), and a mean over classes
  leaves it out. A class that stands in one of the two only has an IoU and a Dice of 0.
- The background, where there is one, is a class like the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE

if TYPE_CHECKING:
    from scipy.spatial import KDTree

Labels = NDArray[np.uint8]
Floats = NDArray[np.float64]

CHUNK = 1 << 20
"""Pixels counted at a time: what is in between stays in the processor's cache."""

MOST_PAIRS = 1 << 22
"""Outlines with no more pairs of pixels than this are compared pair by pair."""

ROWS = 64
"""Pixels of one outline that are compared with all of the other at a time."""

DENSE = 16
"""Outlines of more than one pixel in so many are compared by a map of distances, whose cost is the image's size."""

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def confusion(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], k: int, ignore: int = IGNORE, *, gaps: bool = False
) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class.

    Args:
        truth: uint8 [h, w], classes 0 to k - 1, or `ignore`.
        predicted: uint8 [h, w], classes 0 to k - 1, also where the truth is `ignore`.
        k: number of classes.
        ignore: the truth's label for pixels that count nowhere; not one of the classes.
        gaps: whether pixels may have no prediction, which is IGNORE there.

    Returns:
        int64 [k, k]; rows are the truth, columns the prediction. With gaps [k, k + 1], the last for no prediction.

    Raises:
        HistillError: shapes differ, a type is not uint8, or a label is no class.
    """
    _check(truth, predicted, k, ignore)
    columns = k + gaps
    table = np.zeros((k + 1, columns), np.int64)  # row k takes the ignored pixels
    kind = np.uint8 if table.size <= 256 else np.uint16
    truth, predicted = truth.reshape(-1), predicted.reshape(-1)
    for start in range(0, truth.size, CHUNK):
        true, found, more = _changing(truth[start : start + CHUNK], predicted[start : start + CHUNK], ignore)
        if gaps:
            found = np.where(found == IGNORE, np.uint8(k), found)
        if found.max() >= columns:
            raise _no_class("prediction", int(found.max()), k)
        other = true[(true >= k) & (true != ignore)]
        if other.size:
            raise _no_class("truth", int(other.max()), k)
        codes: NDArray[Any] = np.minimum(true, k).astype(kind)
        codes *= columns
        codes += found
        counts = _histogram(codes, table.size) + np.bincount(codes[7::8], more, table.size)
        table += counts.astype(np.int64).reshape(table.shape)
    return table[:k].copy()


def _histogram(codes: NDArray[Any], size: int) -> NDArray[Any]:
    """How often each of the numbers below `size` stands in an array [n]; [size]."""
    if codes.dtype != np.uint8:
        return np.bincount(codes, minlength=size)
    # Of bytes OpenCV counts twice as many a second; float32 holds as many as a chunk has.
    return cv2.calcHist([codes[None]], [0], None, [256], [0, 256]).ravel()[:size]


def _changing(truth: Labels, predicted: Labels, ignore: int) -> tuple[Labels, Labels, NDArray[np.intp]]:
    """The eights of pixels in which a label changes: true and predicted ones [8 n]; how many like the last follow, [n].

    Label maps are made of regions: to pass over eight pixels like their neighbours takes the processor a fraction of
    what it takes to count them.

    Args:
        truth: of pixels in reading order.
        predicted: of the same pixels.
        ignore: fills up the last eight.
    """
    short = -truth.size % 8
    if short:
        truth, predicted = np.pad(truth, (0, short), constant_values=ignore), np.pad(predicted, (0, short))
    changes = np.ones(truth.size, bool)
    np.not_equal(truth[1:], truth[:-1], out=changes[1:])
    changes[1:] |= predicted[1:] != predicted[:-1]
    # Eight bytes are one 64-bit number.
    eights = np.flatnonzero(changes.view(np.uint64) != 0)
    true, found = (labels.view(np.uint64)[eights].view(np.uint8) for labels in (truth, predicted))
    return true, found, 8 * (np.diff(eights, append=truth.size // 8) - 1)


def class_iou(table: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each class: TP / (TP + FP + FN).

    Args:
        table: confusion counts [..., k, k].

    Returns:
        float64 [..., k], nan where a class stands neither in truth nor in prediction.
    """
    agreed = np.diagonal(table, axis1=-2, axis2=-1)  # [..., k]
    return _ratio(agreed, table.sum(-1) + _predicted(table) - agreed)


def class_dice(table: NDArray[Any]) -> NDArray[np.float64]:
    """Dice coefficient of each class: 2 TP / (2 TP + FP + FN).

    Args:
        table: confusion counts [..., k, k].

    Returns:
        float64 [..., k], nan where a class stands neither in truth nor in prediction.
    """
    agreed = np.diagonal(table, axis1=-2, axis2=-1)  # [..., k]
    return _ratio(2 * agreed, table.sum(-1) + _predicted(table))


def _predicted(table: NDArray[Any]) -> NDArray[Any]:
    """Pixels predicted as each class, [..., k]: those without a prediction are no class's."""
    predicted: NDArray[Any] = table.sum(-2)[..., : table.shape[-2]]
    return predicted


def mean_iou(table: NDArray[Any]) -> NDArray[np.float64]:
    """Mean IoU over the classes that stand in truth or prediction; float64 [...] from counts [..., k, k]."""
    return mean_defined(class_iou(table))


def mean_dice(table: NDArray[Any]) -> NDArray[np.float64]:
    """Mean Dice over the classes that stand in truth or prediction; float64 [...] from counts [..., k, k]."""
    return mean_defined(class_dice(table))


def frequency_weighted_iou(table: NDArray[Any]) -> NDArray[np.float64]:
    """FwIoU = sum over classes of freq_k IoU_k, freq_k the class's share of true pixels; [...] from [..., k, k]."""
    # A class without IoU has no true pixel either, so its weight is zero.
    return _ratio((table.sum(-1) * np.nan_to_num(class_iou(table))).sum(-1), table.sum((-2, -1)))


def accuracy(table: NDArray[Any]) -> NDArray[np.float64]:
    """ACC, the share of pixels given their true class; float64 [...] from counts [..., k, k]."""
    return _ratio(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1)))


def mean_defined(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Mean along an axis over what is not nan; nan where nothing is left."""
    return _ratio(np.nansum(values, axis), np.count_nonzero(~np.isnan(values), axis))


def hd95(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], k: int, ignore: int = IGNORE) -> NDArray[np.float64]:
    """How far the outlines of truth and prediction lie apart, by class: the 95 % Hausdorff distance in pixels.

    A mask's outline is its pixels that have one of their four neighbours outside the mask; what lies beyond the image
    is outside. From each outline pixel of one mask the distance is taken to the nearest outline pixel of the other,
    centre to centre. HD95 is the larger of the two directions' 95th percentiles (linear interpolation). Ignored pixels
    belong to neither mask.

    Where both masks are empty it is nan, to be left out of means. Where one is empty it is the image's diagonal,
    sqrt(h^2 + w^2), and counts.

    Args:
        truth: uint8 [h, w], classes or `ignore`.
        predicted: uint8 [h, w], classes.
        k: number of classes.
        ignore: the truth's label for pixels that count nowhere.

    Returns:
        float64 [k], in pixels.

    Raises:
        HistillError: shapes differ, a type is not uint8, or a label is no class.
    """
    _check(truth, predicted, k, ignore)
    valid = truth != ignore
    return np.array([_outline_distance(truth == c, (predicted == c) & valid) for c in range(k)])


def _outline_distance(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """`hd95` of two binary masks [h, w]."""
    either = first | second
    rows, columns = (np.flatnonzero(either.any(axis)) for axis in (1, 0))
    if rows.size == 0:
        return float("nan")
    if not first.any() or not second.any():
        return float(np.hypot(*first.shape))
    # Both outlines lie inside the joint bounding box, so nothing beyond it changes a distance.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return max(_percentile_95(way) for way in _between(_outline(first[box]), _outline(second[box])))


def _percentile_95(values: NDArray[np.floating[Any]]) -> float:
    """The 95th percentile of [n], between two neighbours linearly; np.percentile would take a third of all the time."""
    place = 0.95 * (values.size - 1)
    low = int(place)
    high = min(low + 1, values.size - 1)
    parted = np.partition(values, (low, high))
    return float(parted[low]) + (place - low) * float(parted[high] - parted[low])


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled = mask.astype(np.uint8)
    inside = cv2.erode(filled, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return np.not_equal(filled, inside)


def _between(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """From each pixel of an outline [h, w] to the nearest of the other, [n], and the other way round, [m].

    Three ways to the same Euclidean distances: whichever is the fastest for so many pixels.
    """
    n, m = np.count_nonzero(first), np.count_nonzero(second)
    if n * m > MOST_PAIRS and DENSE * (n + m) > first.size:
        return _distance_to(second)[first], _distance_to(first)[second]
    one, other = _places(first), _places(second)  # [n, 2], [m, 2]
    if n * m > MOST_PAIRS:
        return _tree(other).query(one)[0], _tree(one).query(other)[0]
    return _by_pairs(one, other, exact=np.float32 if 2 * np.hypot(*first.shape) ** 2 < 1 << 24 else np.float64)


def _by_pairs(one: Floats, other: Floats, exact: type[np.floating[Any]]) -> tuple[Floats, Floats]:
    """`_between` of places [n, 2] and [m, 2]; `exact` holds twice the square of their greatest distance."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab as one product of matrices; of whole numbers, so nothing is rounded.
    left = np.column_stack([(one**2).sum(1), np.ones(len(one)), -2 * one]).astype(exact)  # [n, 4]
    right = np.column_stack([np.ones(len(other)), (other**2).sum(1), other]).astype(exact)  # [m, 4]
    to_other, to_one = np.empty(len(one), exact), np.full(len(other), np.inf, exact)
    for start in range(0, len(one), ROWS):
        squares = left[start : start + ROWS] @ right.T  # [64, m]
        to_other[start : start + ROWS] = squares.min(1)
        np.minimum(to_one, squares.min(0), out=to_one)
    return np.sqrt(to_other, dtype=np.float64), np.sqrt(to_one, dtype=np.float64)


def _places(outline: NDArray[np.bool_]) -> Floats:
    """Row and column of each pixel of an outline, [n, 2]."""
    return np.column_stack(np.divmod(np.flatnonzero(outline), outline.shape[1])).astype(np.float64)


def _tree(places: Floats) -> KDTree:
    from scipy.spatial import KDTree

    # Neither balanced nor tight, which pixels of a grid hardly need: building would be half of the time.
    return KDTree(places, leafsize=32, balanced_tree=False, compact_nodes=False)


def _distance_to(outline: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each pixel's Euclidean distance to the nearest pixel of the outline; float32 [h, w]."""
    distance = cv2.distanceTransform((~outline).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Quotient of the two, nan where the lower one is zero."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def _check(truth: NDArray[Any], predicted: NDArray[Any], k: int, ignore: int) -> None:
    if not 1 <= k <= 255 or 0 <= ignore < k:
        raise HistillError(
            f"{k} classes with {ignore} as the label to ignore", code=Exit.USAGE, mend="Ignore a label that is no class"
        )
    for name, mask in (("truth", truth), ("prediction", predicted)):
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise HistillError(
                f"a mask is uint8 [h, w], not {mask.dtype} {list(mask.shape)}", code=Exit.INPUT, subject=name
            )
    if truth.shape != predicted.shape:
        raise HistillError(
            f"prediction is {predicted.shape[1]} x {predicted.shape[0]} px, truth {truth.shape[1]} x {truth.shape[0]}",
            code=Exit.INPUT,
            mend="Predict at the truth's own size: masks are never resized in silence",
        )


def _no_class(name: str, label: int, k: int) -> HistillError:
    return HistillError(
        f"label {label} is none of the {k} classes",
        code=Exit.INPUT,
        subject=name,
        mend=f"Labels are 0 to {k - 1}" + (f", or {IGNORE} where the truth is not known" if name == "truth" else ""),
    )
