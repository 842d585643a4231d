"""A weight that rises while a network learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ramp(nn.Module):
    """``min(1, i / n)`` in step i of training, counted from 1.

    Its count is a buffer, so training that is stopped and goes on within an epoch rises as if it had not been.

    Args:
        steps: n; with 0 the weight is 1 at once.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.seen = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """The weight, float32 scalar; each call in train mode is a step."""
        if self.training:
            self.seen.add_(1)
        return (
            (self.seen.float() / max(1, self.steps)).clamp(max=1) if self.steps else torch.ones_like(self.seen.float())
        )
