"""Losses between a segmenter's maps and image labels: multiple instance learning, each image a bag of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from histill.losses.segmentation import dice_loss

LEAST = 1e-6
"""Of a probability, before its logarithm."""


def mil_dice(output: Tensor, target: Tensor, positive: Tensor, valid: Tensor | None = None) -> Tensor:
    """``DiceLoss(o, t)`` of a positive image, ``DiceLoss(1 - o, 1)`` of a negative one, whatever its target.

    With a target of 1 it is the image label, painted over the image.

    Args:
        output: o in 0..1, [b, h, w].
        target: t in 0..1, [b, h, w].
        positive: bool [b].
        valid: bool [b, h, w]; False leaves a pixel out. None for all.

    Returns:
        float32 [b].
    """
    positive = positive.view(-1, 1, 1)  # [b, 1, 1]
    shown = torch.where(positive, output, 1 - output)
    return dice_loss(shown, torch.where(positive, target, torch.ones_like(target)), valid)


def generalised_mean(maps: Tensor, exponent: float, valid: Tensor | None = None) -> Tensor:
    """``(mean p^r)^(1/r)`` of each image, as a log-sum-exp: so that no power of a small p is lost, nor its gradient.

    Args:
        maps: p in 0..1, [b, k, h, w]; below 1e-6 it counts as that.
        exponent: r; 1 is the mean, and the greater it is the nearer to the maximum.
        valid: bool [b, h, w], in every image at least one True; False leaves a pixel out. None for all.

    Returns:
        float32 [b, k].
    """
    powers = exponent * maps.float().clamp(min=LEAST).log()  # [b, k, h, w]
    if valid is None:
        valid = torch.ones_like(maps[:, 0], dtype=torch.bool)  # [b, h, w]
    powers = powers.masked_fill(~valid[:, None], -torch.inf)
    count = valid.sum(dim=(1, 2))[:, None]  # [b, 1]
    return ((powers.logsumexp(dim=(2, 3)) - count.log()) / exponent).exp()
