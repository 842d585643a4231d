"""How well slides are told apart: AUC, balanced accuracy, F1 and accuracy, each with a patient-level interval.

Rules that hold for all of it:

- The predicted class is that of the highest probability; of several the first.
- A class without a true case, or with nothing else, has no AUC (nan), and one without a true case no recall; one that
  is neither true nor predicted anywhere has no F1. Means over classes leave them out, in draws of patients too.
- Of two classes the AUC is that of the second against the first. Of more it is the mean of each against all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.report import Number
from histill.metrics.bootstrap import DRAWS, Resampling, number, resample
from histill.metrics.segmentation import accuracy, mean_defined, mean_dice

CHUNK = 1 << 22
"""Weights of cases that are held at a time."""


def classification_numbers(
    truth: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    patients: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Number]:
    """The measures of one prediction, each with its interval.

    Args:
        truth: the classes, [n], 0 to k - 1.
        probabilities: [n, k], or any scores of which the higher speaks for a class.
        patients: of each case.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        By name `AUC`, `balanced accuracy`, `macro F1`, `ACC`.

    Raises:
        HistillError: input (4), see `measures`.
    """
    found = measures(truth, probabilities, resample(patients, seed=seed, draws=draws))
    return {name: number(replicates, len(truth)) for name, replicates in found.items()}


def measures(
    truth: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], resampling: Resampling
) -> dict[str, NDArray[np.float64]]:
    """The measures as they are and for every draw of patients; two predictions of the same cases can be `paired`.

    Args:
        truth: the classes, [n], 0 to k - 1.
        probabilities: [n, k], or any scores of which the higher speaks for a class.
        resampling: of the cases' patients.

    Returns:
        float64 [1 + draws] by name: `AUC`, `balanced accuracy`, `macro F1`, `ACC`.

    Raises:
        HistillError: input (4) if there is no case, fewer than two classes, a label that is no class, a score that is
            not a number, or lengths differ.
    """
    _check(truth, probabilities, resampling)
    k = probabilities.shape[1]
    cells = np.zeros((len(truth), k, k), np.int64)
    cells[np.arange(len(truth)), truth, probabilities.argmax(1)] = 1
    tables = resampling.sums(cells)  # [1 + draws, k, k]
    return {
        "AUC": macro_auc(truth, probabilities, resampling),
        "balanced accuracy": balanced_accuracy(tables),
        "macro F1": mean_dice(tables),  # F1 is Dice by its other name
        "ACC": accuracy(tables),
    }


def balanced_accuracy(table: NDArray[Any]) -> NDArray[np.float64]:
    """Mean recall over the classes that have a true case; float64 [...] from counts [..., k, k], rows the truth."""
    cases = table.sum(-1)  # [..., k]
    recall = np.full(cases.shape, np.nan)
    np.divide(np.diagonal(table, axis1=-2, axis2=-1), cases, out=recall, where=cases > 0)
    return mean_defined(recall)


def macro_auc(
    truth: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], resampling: Resampling
) -> NDArray[np.float64]:
    """AUC of two classes, or the mean over more of each against all others, for every draw; see `measures`."""
    k = probabilities.shape[1]
    classes = [1] if k == 2 else range(k)
    areas = [
        np.concatenate([auc(truth == c, probabilities[:, c], weights) for weights in _weights(resampling)])
        for c in classes
    ]
    return mean_defined(np.stack(areas, axis=-1))


def auc(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The share of pairs of a positive and a negative case in which the positive scores higher; ties count half.

    Args:
        positive: bool [n].
        scores: [n].
        weights: how often each case counts, [m, n], m times.

    Returns:
        float64 [m], nan where there is no such pair.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    ties = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weights, positive = weights[:, order], positive[order]
    above = np.add.reduceat(weights * positive, ties, axis=1)  # [m, distinct scores]
    below = np.add.reduceat(weights * ~positive, ties, axis=1)  # [m, distinct scores]
    won = (above * (below.cumsum(1) - below / 2)).sum(1)
    pairs = above.sum(1) * below.sum(1)
    area = np.full(len(weights), np.nan)
    np.divide(won, pairs, out=area, where=pairs > 0)
    return area


def _weights(resampling: Resampling) -> Iterator[NDArray[np.float64]]:
    """How often each case counts, some draws at a time, [m, n]."""
    step = max(1, CHUNK // len(resampling.patient))
    for start in range(0, len(resampling.weights), step):
        yield resampling.weights[start : start + step, resampling.patient]


def _check(truth: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], resampling: Resampling) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not len(truth):
        what = f"probabilities are [n, k] with n >= 1 and k >= 2, not {list(probabilities.shape)}"
        raise HistillError(what, code=Exit.INPUT, subject="prediction")
    lengths = {"truth": truth.shape[0], "prediction": len(probabilities), "patients": len(resampling.patient)}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise HistillError(f"not of the same cases: {said}", code=Exit.INPUT, mend="Give each once for every case")
    if truth.min() < 0 or truth.max() >= probabilities.shape[1]:
        what = f"labels from {truth.min()} to {truth.max()} for {probabilities.shape[1]} classes"
        raise HistillError(what, code=Exit.INPUT, subject="truth", mend="Leave cases out whose class is not known")
    if np.isnan(probabilities).any():
        what = f"{np.isnan(probabilities).any(1).sum()} cases have scores that are not numbers"
        raise HistillError(what, code=Exit.INPUT, subject="prediction", mend="Predict these cases again")
