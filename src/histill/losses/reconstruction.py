"""What a reconstructed bag of features owes to the true one, and to what slide-level teachers say of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from histill.core.labels import IGNORE
from histill.losses.segmentation import count_known


def masked_mse(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """``mean_b mean_i mean_d (p_i - t_i)^2`` over the tiles i that count: every bag counts alike, however many it has.

    A bag without any is left out. What stands where nothing counts does not matter.

    Args:
        predicted: p, [b, n, d].
        target: t, [b, n, d].
        counts: bool [b, n]: masked, and present.

    Returns:
        float32, a number; 0 if nothing counts.
    """
    errors = _squares(predicted, target, counts)  # [b, n]
    number = counts.sum(dim=1)  # [b]
    return _mean_known(errors.sum(dim=1) / number.clamp(min=1), number > 0)


def slide_mse(predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """``mean_b mean_k (p - t)^2`` over the slides whose target is known: the paper's ``MSE(class token, target)``.

    Args:
        predicted: p, [b, k].
        target: t, [b, k]; anything where it is not known. No gradient goes to it.
        known: bool [b].

    Returns:
        float32, a number; 0 if no target is known.
    """
    return _mean_known(_squares(predicted, target, known), known)


def teacher_loss(predicted: Mapping[str, Tensor], targets: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Tensor:
    """``1 - cos(p, t) + mean_k (p - t)^2``, the mean over all pairs of slide and teacher whose t is known.

    A slide may lack some teachers or all of them, and every pair that is there counts alike.

    Args:
        predicted: p of each teacher, [b, k], by its name; at least one.
        targets: t, [b, k]; anything where it is not known. No gradient goes to it.
        known: bool [b].

    Returns:
        float32, a number; 0 if nothing is known.
    """
    losses = []
    for name, output in predicted.items():
        here = known[name]
        target = targets[name].detach().float().masked_fill(~here[:, None], 0)
        cosine = F.cosine_similarity(output.float(), target, dim=1)  # [b]
        losses.append(1 - cosine + _squares(output, target, here))
    return _mean_known(torch.cat(losses), torch.cat([known[name] for name in predicted]))


def _squares(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean squared difference over the last axis, float32; 0 where nothing counts, with no gradient."""
    # Filled before the difference: infinity times a gradient of 0 would not be 0.
    predicted, target = (x.float().masked_fill(~counts[..., None], 0) for x in (predicted, target.detach()))
    return (predicted - target).square().mean(dim=-1)


def _mean_known(values: Tensor, known: Tensor) -> Tensor:
    # Several processes that hold a part of a batch each count what is known of all of it.
    return values.masked_fill(~known, 0).sum() / count_known(torch.where(known, 0, IGNORE))
