"""What makes the parts of a batch that several processes hold one batch: statistics, dropout, and how much is known.

A BatchNorm takes mean and variance over the images of a batch, dropout draws for them in turn, and a mean over labelled
pixels divides by how many there are. Where each process holds a part of the images, its own statistics, draws and
counts would train another network than one process does: on eight GPUs BatchNorm would see two or three images. Here
they are the whole batch's, so that the number of processes changes the last bits of numbers and no more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as peers
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from histill.core.labels import IGNORE
from histill.data.batches import Share
from histill.losses.segmentation import count_known

BY_ELEMENT = {F.dropout}
BY_CHANNEL = {F.dropout1d, F.dropout2d, F.dropout3d}


class WholeBatch(TorchFunctionMode):
    """While its block runs, torch's batch_norm and dropout and `count_known` see the whole batch.

    All processes must call them alike: a network that one of them leaves out is waited for by the others.

    Args:
        share: of this process.
        whole: images of the whole batch.
    """

    def __init__(self, share: Share, whole: int) -> None:
        super().__init__()
        self._rows, self._whole = share.of(whole), whole

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, but for these."""
        kwargs = kwargs or {}
        if function is F.batch_norm:
            return whole_batch_norm(*args, **kwargs)
        if function in BY_ELEMENT or function in BY_CHANNEL:
            return self._dropout(function, *args, **kwargs)
        if function is count_known:
            return self._known(*args)
        return function(*args, **kwargs)

    def _known(self, labels: Tensor) -> Tensor:
        known = (labels != IGNORE).sum()
        peers.all_reduce(known)
        # A mean of parts weighs each by its images; what is divided by this counts as if all had as many known pixels.
        return known.clamp(min=1) * (len(self._rows) / self._whole)

    def _dropout(
        self, function: Any, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        rows = len(self._rows)
        if not training or p == 0 or values.shape[0] % rows:
            return function(values, p, training, inplace)
        # A network may hold several rows an image, one after another.
        each = values.shape[0] // rows
        spread = values.shape[1:] if function in BY_ELEMENT else (values.shape[1], *(1 for _ in values.shape[2:]))
        ones = torch.ones(each * self._whole, *spread, dtype=values.dtype, device=values.device)
        if ones.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            # Draws follow memory, not indices.
            ones = ones.contiguous(memory_format=torch.channels_last)
        return values * function(ones, p)[each * self._rows.start : each * self._rows.stop]


def whole_batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, its mean and variance those of all processes' values [b, c, ...].

    Every process gets the same statistics, and its running ones move alike.
    """
    if not training:
        return F.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.no_grad():
        mean, var, count = _statistics(values)
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(var * (count / (count - 1)), alpha=momentum)
    normed: Tensor = _Normed.apply(values, weight, bias, mean, var, eps, count)
    return normed


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance float32 [c] over all processes' values, and how many values a channel has, float32 [1]."""
    c = values.shape[1]
    var, mean = torch.var_mean(values.float(), dim=_others(values), correction=0)
    own = torch.cat([mean.double(), var.double(), mean.new_tensor([values.numel() // c]).double()])  # [2 c + 1]
    parts = [torch.empty_like(own) for _ in range(peers.get_world_size())]
    peers.all_gather(parts, own)
    means, variances, counts = torch.split(torch.stack(parts), [c, c, 1], dim=1)  # [size, c], [size, c], [size, 1]
    count = counts.sum(dim=0)  # [1]
    mean = (counts * means).sum(dim=0) / count
    var = (counts * (variances + (means - mean) ** 2)).sum(dim=0) / count
    return mean.float(), var.float(), count.float()


class _Normed(torch.autograd.Function):
    """``w (x - mean) / sqrt(var + eps) + b``, mean and variance being those of x over all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        count: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, (var + eps).rsqrt(), count)
        return F.batch_norm(values, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradients[0].float()
        shape = (1, -1, *(1 for _ in values.shape[2:]))
        normed = (values.float() - mean.view(shape)) * scale.view(shape)
        of_bias = gradient.sum(dim=_others(values))  # [c]
        of_weight = (gradient * normed).sum(dim=_others(values))  # [c]
        sums = torch.stack([of_bias, of_weight])  # [2, c]
        peers.all_reduce(sums)
        along, across = (sums / count).unbind(0)
        factor = scale if weight is None else scale * weight
        of_values = factor.view(shape) * (gradient - along.view(shape) - normed * across.view(shape))
        return (
            of_values.to(values.dtype) if ctx.needs_input_grad[0] else None,
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            *(None for _ in range(4)),
        )


def _others(values: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [0, *range(2, values.ndim)]
