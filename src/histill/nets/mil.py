"""Multi-instance learning: networks that judge the parts of what is labelled as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Strict
from histill.nets.encoders import Encoder, OutputStride, build_encoder


class GatedAttention(nn.Module):
    """How much each instance of a bag counts: ``a_i = softmax_i(u . (tanh(V h_i) * s(U h_i)))``.

    Ilse et al., "Attention-based deep multiple instance learning", ICML 2018, formula 9.

    Args:
        channels: c, the width of an instance.
        hidden: the width of V and U.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, instances: Tensor, present: Tensor) -> Tensor:
        """Instances [b, n, c], of which those that are present (bool [b, n]) count -> weights float32 [b, n]."""
        scores: Tensor = self.score(self.value(instances).tanh() * self.gate(instances).sigmoid())[..., 0]  # [b, n]
        return scores.float().masked_fill(~present, -torch.inf).softmax(dim=1)


@dataclass(frozen=True)
class BagLogits:
    """What is said of images and of their cells at one scale.

    Attributes:
        bag: logit of each image, float32 [b].
        instances: logit of each cell, float32 [b, rows, columns].
        present: cells that show some of the image rather than padding alone, bool [b, rows, columns].
    """

    bag: Tensor
    instances: Tensor
    present: Tensor


class InstanceHead(nn.Module):
    """One scale: an instance logit ``z_i = v . h_i + b``, and the bag's ``sum a_i z_i`` under gated attention."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.attention = GatedAttention(channels, hidden)
        self.logit = nn.Linear(channels, 1)

    def forward(self, cells: Tensor, present: Tensor) -> BagLogits:
        """Cells [b, c, rows, columns] and which of them are present, bool [b, rows, columns]."""
        instances = cells.flatten(2).transpose(1, 2)  # [b, n, c]
        logits = self.logit(instances)[..., 0].float()  # [b, n]
        weights = self.attention(instances, present.flatten(1))  # [b, n]
        return BagLogits((weights * logits).sum(dim=1), logits.view(present.shape), present)


class MultiScaleMil(nn.Module):
    """An image as bags of cells at several scales: one trunk, its last map averaged over grids, a head for each.

    Args:
        encoder: the trunk.
        grids: cells along a side of each grid, as a share of the map's side: 1 for the map's own pixels.
        hidden: width of the attention.
    """

    def __init__(self, encoder: Encoder, grids: Sequence[float], hidden: int) -> None:
        super().__init__()
        self.encoder, self.grids = encoder, tuple(grids)
        self.heads = nn.ModuleList(InstanceHead(encoder.channels[-1], hidden) for _ in grids)

    def forward(self, images: Tensor, valid: Tensor) -> list[BagLogits]:
        """Images float [b, 3, h, w] in 0..1 and which of their pixels are not padding, bool [b, h, w] -> each scale's.

        Cells count only what is not padding; cells of padding alone are not present.
        """
        features = self.encoder(images)[-1]  # [b, c, h / s, w / s]
        h, w = features.shape[-2:]
        shown = F.adaptive_avg_pool2d(valid[:, None].float(), (h, w))  # [b, 1, h / s, w / s]
        found = []
        for head, (rows, columns) in zip(self.heads, self.cells(h, w), strict=True):
            share = _averaged(shown, rows, columns)  # [b, 1, rows, columns]
            cells = _averaged(features * shown, rows, columns) / share.clamp(min=torch.finfo(torch.float32).tiny)
            found.append(head(cells, share[:, 0] > 0))
        return found

    def cells(self, h: int, w: int) -> list[tuple[int, int]]:
        """Rows and columns of each grid on a map of h x w: rounded, at least 1; on a small map some may be equal."""
        return [(_rounded(h * grid), _rounded(w * grid)) for grid in self.grids]

    def start(self, settings: MultiScaleMilSettings) -> None:
        """Load the start weights and freeze what the settings say."""
        self.encoder.start_from(settings.weights)
        self.encoder.freeze(through="", norms=settings.frozen_norms)


class MultiScaleMilSettings(Strict):
    """A multi-scale network of instances by the names of its parts."""

    encoder: str = "resnet34"
    """squeezenet1_0, resnet38, or any timm encoder with feature maps"""
    weights: str = "imagenet"
    """what the encoder starts from: none, a file (.safetensors, .pth, .npz, .params), or a name of the hub"""
    output_stride: OutputStride = 16
    """pixels of the image for one of the last map"""
    hidden: PositiveInt = 128
    """width of the gated attention"""
    frozen_norms: bool = True
    """with loaded weights: BatchNorms keep their statistics"""


def build_multi_scale_mil(settings: MultiScaleMilSettings, grids: Sequence[float]) -> MultiScaleMil:
    """A network with one head for each grid, without weights; see `MultiScaleMil`."""
    encoder = build_encoder(settings.encoder, output_stride=settings.output_stride)
    return MultiScaleMil(encoder, grids, settings.hidden)


def _averaged(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Adaptive average pooling, [b, c, h, w] -> float32 [b, c, rows, columns].

    As two products of matrices: torch's own has no backward pass that gives the same bits twice on a GPU.
    """
    if maps.shape[-2:] == (rows, columns):
        return maps.float()
    with torch.autocast(maps.device.type, enabled=False):
        down, along = _cells(rows, maps.shape[-2], maps), _cells(columns, maps.shape[-1], maps)
        return down @ maps.float() @ along.T


def _cells(count: int, side: int, like: Tensor) -> Tensor:
    """What each of so many cells of a side averages, [count, side]: they overlap where the side is no multiple."""
    number, place = torch.arange(count), torch.arange(side)
    first, last = number * side // count, -(-(number + 1) * side // count)
    covered = (place >= first[:, None]) & (place < last[:, None])
    return (covered / covered.sum(dim=1, keepdim=True)).to(like.device)


def _rounded(side: float) -> int:
    return max(1, int(side + 0.5))
