"""How well image labels are predicted, class by class: AUC, average precision, balanced accuracy, F1.

A measure that a class does not allow is nan and is left out of the mean over classes: AUC, average precision and
balanced accuracy need images with and images without the class; F1 needs the class in the truth or the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.metrics.segmentation import mean_defined


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Measures of each class, float64 [k]; nan where the class does not allow it.

    Attributes:
        auc: area under the receiver operating characteristic.
        average_precision: precision averaged over the steps of recall.
        balanced_accuracy: mean of sensitivity and specificity at the threshold.
        f1: at the threshold.
        positives: images that hold the class, int64 [k].
    """

    auc: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    f1: NDArray[np.float64]
    positives: NDArray[np.int64]

    def means(self) -> dict[str, float]:
        """The mean of each measure over the classes that allow it."""
        measures = {
            "AUC": self.auc,
            "average precision": self.average_precision,
            "balanced accuracy": self.balanced_accuracy,
            "macro F1": self.f1,
        }
        return {name: float(mean_defined(values)) for name, values in measures.items()}


def score_labels(
    truth: NDArray[np.generic], probabilities: NDArray[np.floating], threshold: float = 0.5
) -> LabelScores:
    """Score the predicted labels of n images.

    Args:
        truth: [n, k] of 0 and 1.
        probabilities: [n, k].
        threshold: a class is predicted where its probability reaches it.

    Raises:
        HistillError: shapes differ, a truth is neither 0 nor 1, or a probability is not finite.
    """
    # Here and not above: it takes half a second to import, and most evaluations do without.
    from sklearn import metrics

    if truth.shape != probabilities.shape or truth.ndim != 2 or not len(truth):
        raise HistillError(
            f"labels {list(truth.shape)} and probabilities {list(probabilities.shape)} do not pair up",
            code=Exit.INPUT,
            mend="Give both as [images, classes]",
        )
    if not np.isin(truth, (0, 1)).all():
        raise HistillError("a true label is neither 0 nor 1", code=Exit.INPUT, subject="labels")
    if not np.isfinite(probabilities).all():
        raise HistillError("a probability is not a finite number", code=Exit.NUMBERS, subject="predictions")
    hot, predicted = truth.astype(bool), probabilities >= threshold
    positives = hot.sum(0)
    columns = np.full((4, truth.shape[1]), np.nan)  # [4, k]
    for c in range(truth.shape[1]):
        if 0 < positives[c] < len(hot):
            columns[0, c] = metrics.roc_auc_score(hot[:, c], probabilities[:, c])
            columns[1, c] = metrics.average_precision_score(hot[:, c], probabilities[:, c])
            columns[2, c] = metrics.balanced_accuracy_score(hot[:, c], predicted[:, c])
        if positives[c] or predicted[:, c].any():
            columns[3, c] = metrics.f1_score(hot[:, c], predicted[:, c])
    auc, average_precision, balanced_accuracy, f1 = columns
    return LabelScores(auc, average_precision, balanced_accuracy, f1, positives)
