"""The role of the one who teaches: a network that answers, and does not learn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A network fenced off: always in eval, without gradient, and no part of what an optimiser or a model file holds.

    It answers as the network does. Its weights come from a student alone: `swap` and `follow` do all that changes them,
    BatchNorm's statistics included.

    Args:
        network: its own; to begin with a student's weights, give a deep copy.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval, whatever is asked for."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """What the network says."""
        return self.network(*inputs)

    @torch.no_grad()
    def swap(self, student: nn.Module) -> None:
        """Exchange all weights and buffers with a student's: each becomes what the other was.

        Raises:
            ValueError: the student is of another architecture, or is the teacher's own network.
        """
        for own, other in self._pairs(student):
            held = own.clone()
            own.copy_(other)
            other.copy_(held)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float = 0.0) -> None:
        """Become ``momentum * teacher + (1 - momentum) * student``; with a momentum of 0, the student's copy.

        Buffers of whole numbers, which have no mean, are copied.

        Raises:
            ValueError: as `swap`.
        """
        for own, other in self._pairs(student):
            if momentum and own.is_floating_point():
                own.lerp_(other, 1 - momentum)
            else:
                own.copy_(other)

    def _pairs(self, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        own, other = _tensors(self.network), _tensors(student)
        shapes = {name: value.shape for name, value in own.items()}
        if shapes != {name: value.shape for name, value in other.items()}:
            raise ValueError("teacher and student are of different architectures")
        if any(own[name] is other[name] for name in own):
            raise ValueError("teacher and student share weights: give the teacher a network of its own")
        return ((own[name], other[name]) for name in own)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(chain(network.named_parameters(), network.named_buffers()))
