"""Terms about a mask's outline: how far each pixel lies from it, and the outline itself, softly."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from histill.losses.pixels import mean_over
from histill.losses.segmentation import dice_loss


def shape_transfer(learner: Tensor, peer: Tensor, valid: Tensor) -> Tensor:
    """``mean(p_a phi(sg p_b)) + DiceLoss(e(p_a), sg e(p_b))``: a learns the shape that b sees.

    The first term pushes a's foreground from the outside of b's outline, the more the farther off, to its inside
    (the boundary loss of Kervadec et al., Medical Image Analysis 2021); the second lays outline over outline.

    Args:
        learner: p_a, probabilities [b, h, w].
        peer: p_b, probabilities [b, h, w]; no gradient goes to them.
        valid: bool [b, h, w], a rectangle from the upper left corner of each image.

    Returns:
        float32 [b].
    """
    peer = peer.detach()
    inside = mean_over(learner * signed_distance(peer > 0.5, valid), valid)
    return inside + dice_loss(soft_edge(learner, valid), soft_edge(peer, valid), valid)


def signed_distance(masks: Tensor, valid: Tensor) -> Tensor:
    """phi: each pixel's Euclidean distance to the nearest pixel of the other kind, negative inside, over its maximum.

    0 throughout where an image's mask is empty or full: it has no outline.

    Args:
        masks: bool [b, h, w].
        valid: bool [b, h, w], a rectangle from the upper left corner of each image; beyond it phi is 0.

    Returns:
        float32 [b, h, w] in -1..1, exact, on the masks' device.
    """
    found = np.zeros(masks.shape, np.float32)
    within = valid.cpu().numpy()
    for i, mask in enumerate(masks.cpu().numpy()):
        h, w = int(within[i].any(1).sum()), int(within[i].any(0).sum())
        found[i, :h, :w] = _signed_distance(mask[:h, :w])
    return torch.from_numpy(found).to(masks.device)


def soft_edge(probabilities: Tensor, valid: Tensor) -> Tensor:
    """``e(p) = maxpool3(p) + maxpool3(-p)``: how much p changes within a pixel's 3 x 3 neighbourhood.

    Args:
        probabilities: p, [b, h, w].
        valid: bool [b, h, w]; other pixels are no neighbours, and what is found at them means nothing.

    Returns:
        [b, h, w], 0..1.
    """

    def highest(values: Tensor) -> Tensor:
        return F.max_pool2d(values.masked_fill(~valid, -torch.inf), kernel_size=3, stride=1, padding=1)

    return highest(probabilities) + highest(-probabilities)


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    phi = _to_the_others(~mask) - _to_the_others(mask)
    return np.asarray(phi / np.abs(phi).max(), np.float32)


def _to_the_others(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
