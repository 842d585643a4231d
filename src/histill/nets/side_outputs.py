"""A segmenter of side outputs: a map of one channel at each of a trunk's first depths, and their weighted sum.

As in holistically nested edge detection (Xie and Tu, ICCV 2015), without its learnt fusion.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.nets.encoders import Encoder, build_encoder

Weight = Annotated[float, Field(gt=0, le=1)]


class SideOutputs(nn.Module):
    """``s_k = sigmoid(grown(side_k(m_k)))`` of each tap m_k, and ``f = sum_k w_k s_k``.

    A side is a 1x1 convolution to one channel; growing is bilinear, to the image's size.

    Args:
        encoder: the trunk, of one tap per weight.
        fusion: w, shallow to deep; they sum to 1.
    """

    weights: Tensor

    def __init__(self, encoder: Encoder, fusion: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.sides = nn.ModuleList(_side(channels) for channels in encoder.channels)
        self.register_buffer("weights", torch.tensor(fusion).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images float [b, 3, h, w] in 0..1 -> the sides, shallow to deep, and last f: float32 [b, d + 1, h, w]."""
        logits = [side(tap) for side, tap in zip(self.sides, self.encoder(images), strict=True)]  # [b, 1, h / s, w / s]
        size = images.shape[-2:]
        grown = [F.interpolate(each.float(), size=size, mode="bilinear", align_corners=False) for each in logits]
        sides = torch.cat(grown, dim=1).sigmoid()  # [b, d, h, w]
        # Weights that sum to 1 may sum to a little more in float32.
        fused = (self.weights * sides).sum(dim=1, keepdim=True).clamp(max=1)  # [b, 1, h, w]
        return torch.cat([sides, fused], dim=1)  # [b, d + 1, h, w]

    def start(self, settings: SideOutputSettings) -> None:
        """Load the trunk's start weights."""
        self.encoder.start_from(settings.weights)


class SideOutputSettings(Strict):
    """A network of side outputs by the names of its parts."""

    encoder: str = "vgg16_bn"
    """any timm encoder with feature maps, squeezenet1_0, or resnet38"""
    weights: str = "imagenet"
    """what the encoder starts from: none, a file (.safetensors, .pth, .npz, .params), or a name of the hub"""
    taps: tuple[str, ...] = ()
    """the encoder's maps that get a side, shallow to deep; left out, its first ones. What lies deeper is cut off"""
    fusion: tuple[Weight, ...] = (0.3, 0.3, 0.4)
    """weight of each side in the fused map, shallow to deep; they sum to 1, and the number of sides follows"""


def build_side_outputs(settings: SideOutputSettings) -> SideOutputs:
    """A network of side outputs, without weights.

    Raises:
        HistillError: usage (2) if the fusion's weights do not sum to 1, or are not as many as the taps.
    """
    fusion = settings.fusion
    if abs(sum(fusion) - 1) > 1e-6:
        raise HistillError(
            f"the weights {', '.join(f'{weight:g}' for weight in fusion)} sum to {sum(fusion):g}",
            code=Exit.USAGE,
            subject="fusion",
            mend="Give weights that sum to 1",
        )
    with torch.device("meta"):
        # Only to be asked for its taps.
        taps = settings.taps or build_encoder(settings.encoder, output_stride=32).taps[: len(fusion)]
    if len(taps) != len(fusion):
        raise HistillError(
            f"{len(fusion)} weights for {len(taps)} taps",
            code=Exit.USAGE,
            subject="fusion",
            mend="Give one weight per tap, shallow to deep",
        )
    return SideOutputs(build_encoder(settings.encoder, taps=taps, output_stride=32), fusion)


def _side(channels: int) -> nn.Module:
    side = nn.Conv2d(channels, 1, kernel_size=1)
    # Small, so that a trunk without normalisation does not begin with sides that are 0 or 1.
    nn.init.normal_(side.weight, std=0.01)
    return side
