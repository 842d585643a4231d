"""Losses between pixel logits and label maps. Ignored pixels are left out of every term alike."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from histill.core.labels import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the pixels that are not `IGNORE` of ``-log softmax(z)_y``; 0 where all are ignored.

    Args:
        logits: [b, k, h, w].
        labels: class indices, int64 [b, h, w].
    """
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum") / count_known(labels)


def count_known(labels: Tensor) -> Tensor:
    """How many pixels of a batch are not `IGNORE`, and at least 1: by what a sum over them is divided.

    Where several processes hold a part of a batch each, `engine.whole_batch` answers in its place.

    Args:
        labels: class indices, int64 [b, h, w].
    """
    if has_torch_function((labels,)):
        known: Tensor = handle_torch_function(count_known, (labels,), labels)
        return known
    # A batch may be all white; 0 / 0 must not end a run.
    return (labels != IGNORE).sum().clamp(min=1)


def dice_loss(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """``1 - (2 sum o t + 1) / (sum o + sum t + 1)`` of each image, the sums over its valid pixels; 0 at the optimum.

    Args:
        output: o in 0..1, [b, h, w].
        target: t in 0..1, soft or hard, [b, h, w].
        valid: bool [b, h, w]; False leaves a pixel out of all three sums. None for all.

    Returns:
        float32 [b].
    """
    output, target = output.float(), target.float()
    if valid is not None:
        # Not by a product: what is not finite where nothing counts must not count either.
        output, target = output.masked_fill(~valid, 0), target.masked_fill(~valid, 0)
    both = (output * target).sum(dim=(1, 2))  # [b]
    return 1 - (2 * both + 1) / (output.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + 1)
