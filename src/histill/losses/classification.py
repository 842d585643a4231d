"""Losses between image-level logits and image labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from histill.losses.mil import generalised_mean


def multilabel_soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """-mean over images and classes of ``y log s(z) + (1 - y) log(1 - s(z))``.

    Args:
        logits: [b, k].
        labels: 0 or 1, [b, k].
    """
    return F.multilabel_soft_margin_loss(logits.float(), labels.float())


def pooled_mask_loss(
    probabilities: Tensor, labels: Tensor, exponent: float = 4.0, valid: Tensor | None = None
) -> Tensor:
    """The image-label loss of a mask: binary cross-entropy of its generalised mean, ``(mean p^r)^(1/r)``.

    Says how well a mask agrees with image labels alone, so it can choose a model where no true mask exists.

    Args:
        probabilities: [b, k, h, w] in 0..1.
        labels: 0 or 1, [b, k].
        exponent: r; 1 is the mean, and the greater it is the nearer to the maximum.
        valid: bool [b, h, w]; False leaves a pixel out. None for all.
    """
    pooled = generalised_mean(probabilities, exponent, valid)  # [b, k]
    return F.binary_cross_entropy(pooled.clamp(1e-6, 1 - 1e-6), labels.float())
