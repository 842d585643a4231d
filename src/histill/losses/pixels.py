"""A mean over the pixels that count."""

from __future__ import annotations

from torch import Tensor


def mean_over(values: Tensor, counts: Tensor) -> Tensor:
    """Each image's mean over the pixels that count; 0 where none does.

    What is not finite where nothing counts does not count either.

    Args:
        values: [b, h, w].
        counts: bool [b, h, w].

    Returns:
        float32 [b].
    """
    # An image may say nothing at all; 0 / 0 must not end a run.
    return values.float().masked_fill(~counts, 0).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)
