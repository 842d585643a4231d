"""Losses on labels that are wrong in places."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-6
"""Of a probability, before its logarithm."""


def oeem_weights(losses: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Online easy example mining: ``w = softmax(-CE)`` over an image's pixels, divided by its mean.

    Li et al., "Online easy example mining for weakly-supervised gland segmentation from histology images", MICCAI 2022.
    Pixels that the network finds easy are likely labelled rightly, and count more. Of a label map with one class only
    all would be easy in the end, and so each weight is 1.

    Args:
        losses: CE of each pixel, [b, h, w].
        labels: class indices, int64 [b, h, w].
        valid: bool [b, h, w]; the pixels that count.

    Returns:
        float32 [b, h, w] without gradient, of mean 1 over each image's valid pixels; 0 elsewhere.
    """
    easy = -losses.detach().float().masked_fill(~valid, torch.inf)  # [b, h, w]
    shares = easy.flatten(1).softmax(dim=1).view_as(easy)
    weights = shares * valid.sum(dim=(1, 2), keepdim=True)
    # Two extremes that no label has: where nothing is valid they differ, and 0 stays below.
    lowest = labels.masked_fill(~valid, torch.iinfo(labels.dtype).max).amin(dim=(1, 2), keepdim=True)  # [b, 1, 1]
    highest = labels.masked_fill(~valid, torch.iinfo(labels.dtype).min).amax(dim=(1, 2), keepdim=True)  # [b, 1, 1]
    weights = torch.where(lowest == highest, torch.ones_like(weights), weights)
    return weights.masked_fill(~valid, 0)


def oeem_cross_entropy(probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """``mean(w CE)`` over each image's valid pixels, with ``CE = -log p_y`` and w by `oeem_weights`.

    Args:
        probabilities: p, [b, k, h, w]; below 1e-6 it counts as that.
        labels: y, class indices, int64 [b, h, w].
        valid: bool [b, h, w]; False leaves a pixel out.

    Returns:
        float32 [b]; 0 where no pixel is valid.
    """
    named = labels.masked_fill(~valid, 0)[:, None]  # [b, 1, h, w]
    losses = -probabilities.float().gather(1, named)[:, 0].clamp(min=LEAST).log()  # [b, h, w]
    losses = losses.masked_fill(~valid, 0)
    total = (oeem_weights(losses, labels, valid) * losses).sum(dim=(1, 2))  # [b]
    return total / valid.sum(dim=(1, 2)).clamp(min=1)
