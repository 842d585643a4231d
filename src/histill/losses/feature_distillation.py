"""What a student's maps learn from a teacher's: attention, features inside and outside of boxes, relations.

The terms of Yang et al., "Focal and global knowledge distillation for detectors" (FGD), CVPR 2022, whose public weights
(foreground 1e-3, background 5e-4, attention 5e-4, relation 5e-6) hold for sums over elements divided by the batch, as
they are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.5


class Attention(NamedTuple):
    """Where a map is strong: over cells, float32 [b, h, w], and over channels, float32 [b, c]; each of mean 1."""

    spatial: Tensor
    channel: Tensor


class Shares(NamedTuple):
    """Weights of cells inside of boxes and outside, float32 [b, h, w] each; one of the two is 0 in every cell."""

    foreground: Tensor
    background: Tensor


def attention(maps: Tensor, temperature: float = TEMPERATURE) -> Attention:
    """``A_S = H W softmax(mean_c |F| / T)`` over the cells and ``A_C = C softmax(mean_hw |F| / T)`` over the channels.

    Args:
        maps: F, [b, c, h, w].
        temperature: T.
    """
    b, c, h, w = maps.shape
    strength = maps.float().abs()
    spatial = h * w * (strength.mean(1).flatten(1) / temperature).softmax(-1)  # [b, h w]
    channel = c * (strength.mean((2, 3)) / temperature).softmax(-1)  # [b, c]
    return Attention(spatial.view(b, h, w), channel)


def box_shares(boxes: Sequence[Tensor], size: tuple[int, int], stride: float) -> Shares:
    """A cell's share of the box it lies in, 1 / box area, or of the background, 1 / background area; areas in cells.

    A box holds every cell that it touches; where boxes overlap, the smallest counts.

    Args:
        boxes: of each image in px, float32 [n, 4]; an image may hold none, and is all background.
        size: height and width of the map.
        stride: px of the image for one cell.
    """
    h, w = size
    inside = torch.stack([_largest_share(each.float() / stride, h, w) for each in boxes])  # [b, h, w]
    outside = (inside == 0).float()
    return Shares(inside, outside / outside.sum((1, 2), keepdim=True).clamp(min=1))


def feature_error(teacher: Tensor, student: Tensor, weights: Tensor, focus: Attention) -> Tensor:
    """``sum_chw W A_S A_C (F_T - F_S)^2``, the mean over the batch.

    Args:
        teacher: F_T, [b, c, h, w]; no gradient goes to it.
        student: F_S, of the same shape.
        weights: W, such as a part of `box_shares`, [b, h, w].
        focus: A_S and A_C, the teacher's attention; no gradient goes to it.

    Returns:
        float32 scalar.
    """
    squares = (teacher.detach().float() - student.float()).square()
    spatial, channel = focus.spatial.detach(), focus.channel.detach()
    return torch.einsum("bchw,bhw,bc->", squares, weights * spatial, channel) / len(squares)


def attention_error(teacher: Attention, student: Attention) -> Tensor:
    """``sum |A_S^T - A_S^S| + sum |A_C^T - A_C^S|``, the mean over the batch; no gradient goes to the teacher's.

    Returns:
        float32 scalar.
    """
    spatial = (teacher.spatial.detach() - student.spatial).abs().sum()
    channel = (teacher.channel.detach() - student.channel).abs().sum()
    return (spatial + channel) / len(student.channel)


def relation_error(teacher: Tensor, student: Tensor) -> Tensor:
    """``sum (R(F_T) - R(F_S))^2``, the mean over the batch, R each one's own global context block.

    Gradients go to both, as the teacher's block learns too; give it maps without gradient.

    Args:
        teacher: R(F_T), [b, c, h, w].
        student: R(F_S), of the same shape.

    Returns:
        float32 scalar.
    """
    return (teacher.float() - student.float()).square().sum() / len(student)


def imitation(teacher: Tensor, student: Tensor) -> Tensor:
    """The mean of ``(F_T - F_S)^2`` over all elements: plain feature imitation, whatever the maps' size.

    Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015.

    Args:
        teacher: F_T, of any shape; no gradient goes to it.
        student: F_S, of the same shape.

    Returns:
        float32 scalar.
    """
    return F.mse_loss(student.float(), teacher.detach().float())


def _largest_share(boxes: Tensor, h: int, w: int) -> Tensor:
    """The largest 1 / area of the boxes [n, 4], in cells, that hold each cell; [h, w], 0 where there is none."""
    if not len(boxes):
        return boxes.new_zeros(h, w)
    rows, columns = torch.arange(h, device=boxes.device), torch.arange(w, device=boxes.device)
    # What is left of a box at the map's edge is at least one cell wide.
    left, top = boxes[:, 0].floor().clamp(0, w - 1)[:, None], boxes[:, 1].floor().clamp(0, h - 1)[:, None]  # [n, 1]
    right, bottom = boxes[:, 2].ceil()[:, None].clamp(max=w), boxes[:, 3].ceil()[:, None].clamp(max=h)
    across = (columns >= left) & (columns < right.maximum(left + 1))  # [n, w]
    along = (rows >= top) & (rows < bottom.maximum(top + 1))  # [n, h]
    areas = (across.sum(1) * along.sum(1))[:, None, None]
    return ((along[:, :, None] & across[:, None]) / areas).amax(0)  # [h, w]
