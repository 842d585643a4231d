"""Losses between pixel logits and label maps. Ignored pixels are left out of every term alike."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from histill.core.labels import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the pixels that are not `IGNORE` of ``-log softmax(z)_y``; 0 where all are ignored.

    Args:
        logits: [b, k, h, w].
        labels: class indices, int64 [b, h, w].
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")
    # A batch may be all white; 0 / 0 must not end a run.
    return total / (labels != IGNORE).sum().clamp(min=1)
