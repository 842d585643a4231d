"""Maps of where a classifier saw each class: class activation maps and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from histill.core.errors import Exit, HistillError


def class_activation(features: Tensor, weight: Tensor) -> Tensor:
    """``M_k = ReLU(sum_n w_kn F_n)``, Zhou et al. 2016.

    Args:
        features: the map before pooling, [b, n, h, w].
        weight: the linear head's, [k, n, 1, 1].

    Returns:
        [b, k, h, w].
    """
    return F.relu(F.conv2d(features, weight))


def grad_cam(logits: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Grad-CAM of every class at every map, without the ReLU: ``M_k = sum_n mean_hw(dz_k / dF_n) F_n``.

    Selvaraju et al., ICCV 2017, formulas 1 and 2.

    Args:
        logits: z, [b, k], computed from the maps with gradients on.
        maps: feature maps [b, n, h, w] on the way to the logits.

    Returns:
        One [b, k, h, w] per map, detached.

    Raises:
        HistillError: usage (2) if the logits are not computed from a map.
    """
    cams: list[list[Tensor]] = [[] for _ in maps]
    for k in range(logits.shape[1]):
        # The images of a batch do not meet before the logits, so one backward pass of their sum serves all.
        gradients = torch.autograd.grad(logits[:, k].sum(), list(maps), retain_graph=True, allow_unused=True)
        for found, features, gradient in zip(cams, maps, gradients, strict=True):
            if gradient is None:
                raise HistillError(
                    "the logits do not depend on one of the taps",
                    code=Exit.USAGE,
                    subject="taps",
                    mend="Choose other taps, or a convolutional encoder such as resnet50",
                )
            weight = gradient.mean(dim=(2, 3), keepdim=True)  # [b, n, 1, 1]
            found.append((weight * features).sum(dim=1).detach())  # [b, h, w]
    return [torch.stack(found, dim=1) for found in cams]  # [b, k, h, w] each


def min_max(cams: Tensor) -> Tensor:
    """Scale each image's maps to 0..1 by one minimum and maximum over all its classes; a flat map becomes 0.

    Args:
        cams: [b, k, h, w].
    """
    low = cams.amin(dim=(1, 2, 3), keepdim=True)
    high = cams.amax(dim=(1, 2, 3), keepdim=True)
    return (cams - low) / (high - low).clamp(min=torch.finfo(cams.dtype).tiny)


def over_maximum(cams: Tensor) -> Tensor:
    """Scale each map of non-negative values by its own maximum, per image and class; an empty map stays 0.

    Args:
        cams: [b, k, h, w], >= 0.
    """
    return cams / cams.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(cams.dtype).tiny)


def upsample(cams: Tensor, h: int, w: int) -> Tensor:
    """Bilinear to an image's size: [b, k, h', w'] -> [b, k, h, w]."""
    return F.interpolate(cams, size=(h, w), mode="bilinear", align_corners=False)
