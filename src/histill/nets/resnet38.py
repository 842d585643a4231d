"""The wide ResNet-38: few, wide layers, and blocks that activate before they convolve.

Wu, Shen and van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", arXiv 1611.10080,
model A1, with the dilations under which weakly supervised segmentation uses it.

Modules are named as in the PyTorch files that this field shares, so that these load as they are; `from_mxnet` renames
the authors' own ImageNet files. The names and the epsilon (1e-5) are those of their public description, and the number
of parameters, 105,070,912, is that of a public record of MLPS's trunk; but no such file was at hand, and none was ever
loaded. What guards against a name or a shape that is otherwise is `load_into`, which fills every parameter exactly
once or refuses. That their channels are in RGB order is taken from how others use them. The authors allow these files
for academic purposes only, and trained them on images whose mean and deviation were taken out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.errors import Exit, HistillError

STEM = 64


class StagePlan(NamedTuple):
    """One stage: its blocks, the width within and after them."""

    blocks: int
    middle: int
    outputs: int
    dropout: float = 0.0
    bottleneck: bool = False
    halves: bool = True


STAGES = {
    2: StagePlan(3, 128, 128),
    3: StagePlan(3, 256, 256),
    4: StagePlan(6, 512, 512),
    5: StagePlan(3, 512, 1024),
    6: StagePlan(1, 512, 2048, dropout=0.3, bottleneck=True),
    7: StagePlan(1, 1024, 4096, dropout=0.5, bottleneck=True, halves=False),
}
NORM_NUMBERS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


class WideBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, each after BatchNorm and ReLU.

    Where a block changes the shape, its shortcut is a 1x1 convolution of the activated input; else the input itself.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _convolution(inputs, middle, 3, stride, dilations[0])
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _convolution(middle, outputs, 3, dilation=dilations[1])
        self.conv_branch1 = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, d, h / stride, w / stride]."""
        active = _activated(x, self.bn_branch2a)
        branch = self.conv_branch2a(active)  # [b, n, h / stride, w / stride]
        branch = self.conv_branch2b1(_activated(branch, self.bn_branch2b1))  # [b, d, h / stride, w / stride]
        added: Tensor = branch + (x if self.conv_branch1 is None else self.conv_branch1(active))
        return added


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions that widen twofold each, with dropout before the last two; else as `WideBlock`.

    Whole channels are dropped, before both, as in the files' PyTorch kin; the authors' own code drops single values
    before the last alone.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _convolution(inputs, middle, 1, stride)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _convolution(middle, 2 * middle, 3, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(2 * middle)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = _convolution(2 * middle, outputs, 1)
        self.conv_branch1 = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, d, h / stride, w / stride]."""
        active = _activated(x, self.bn_branch2a)
        branch = self.conv_branch2a(active)  # [b, n, h / stride, w / stride]
        branch = self.conv_branch2b1(self.dropout_2b1(_activated(branch, self.bn_branch2b1)))  # [b, 2 n, ...]
        branch = self.conv_branch2b2(self.dropout_2b2(_activated(branch, self.bn_branch2b2)))  # [b, d, ...]
        added: Tensor = branch + (x if self.conv_branch1 is None else self.conv_branch1(active))
        return added


class ResNet38(nn.Module):
    """conv1a, the blocks b2 to b7, bn7 and a ReLU: 4096 channels at the output stride.

    As published for classification its stride is 32. Below that, stages keep their resolution and dilate instead: at
    8, b5 to b5_2 by 2 (but b5's first convolution by 1), b6 and b7 by 4.

    Args:
        output_stride: pixels of the image for one of the last map: 8, 16 or 32.
        narrower: divides all widths; 1 is the published network.

    Attributes:
        channels: of each map, by its name, shallow to deep.
        strides: pixels of the image for one of each map.
    """

    def __init__(self, output_stride: int = 8, narrower: int = 1) -> None:
        super().__init__()
        inputs = STEM // narrower
        self.conv1a = _convolution(3, inputs, 3)
        self.channels, self.strides = {"conv1a": inputs}, {"conv1a": 1}
        full, reached = 1, 1  # the stride as published, and here
        for stage, plan in STAGES.items():
            middle, outputs = plan.middle // narrower, plan.outputs // narrower
            before = full // reached
            full *= 2 if plan.halves else 1
            stride = 2 if plan.halves and full <= output_stride else 1
            reached *= stride
            dilation = full // reached
            for index in range(plan.blocks):
                name = f"b{stage}_{index}" if index else f"b{stage}"
                if plan.bottleneck:
                    block: nn.Module = Bottleneck(inputs, middle, outputs, stride, dilation, plan.dropout)
                else:
                    block = WideBlock(inputs, middle, outputs, stride, (before, dilation))
                self.add_module(name, block)
                self.channels[name], self.strides[name] = outputs, reached
                inputs, stride, before = outputs, 1, dilation
        self.bn7 = nn.BatchNorm2d(inputs)
        self.channels["bn7"], self.strides["bn7"] = inputs, reached

    def forward(self, x: Tensor, taps: Collection[str] = ("bn7",)) -> list[Tensor]:
        """Images [b, 3, h, w] -> the maps named, shallow to deep, each [b, c, h / stride, w / stride].

        A block's map is its output, as it goes into the next: what the blocks have added up, not yet normalised and
        activated. Some implementations take the next block's activated input instead. bn7's is what follows its ReLU.
        """
        maps = []
        for name, module in self.named_children():
            x = _activated(x, self.bn7) if name == "bn7" else module(x)
            if name in taps:
                maps.append(x)
        return maps


def from_mxnet(weights: Mapping[str, Tensor], network: ResNet38) -> dict[str, Tensor]:
    """The authors' names -> ours: "aux:bn4b5_branch2b1_moving_mean" -> "b4_5.bn_branch2b1.running_mean".

    The classification layer (linear1000) is left out. Where gammas are fixed to 1 a file may be without any. A name
    that is not known stays as it is, for `load_into` to refuse.

    Raises:
        HistillError: input (4) if two arrays are one parameter of ours.
    """
    own = network.state_dict()
    ours = {mxnet_name(key): key for key in own if not key.endswith("num_batches_tracked")}
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if _bare(name).startswith("linear"):
            continue
        key = ours.get(_bare(name), name)
        if key in found:
            raise HistillError(
                "is in the weights file twice", code=Exit.INPUT, subject=_bare(name), mend="Use the file as published"
            )
        found[key] = value
    gammas = {key for name, key in ours.items() if name.endswith("_gamma")}
    if not gammas & found.keys():
        found |= {key: torch.ones_like(own[key]) for key in gammas}
    return found


def is_mxnet(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file's names are the authors'."""
    return any(_bare(name) == mxnet_name("conv1a.weight") for name in weights)


def mxnet_name(key: str) -> str:
    """The name that one of our parameters has in the authors' files, without its "arg:" or "aux:".

    A stage's blocks are a, b1, b2 and so on: "b4.conv_branch1.weight" is "res4a_branch1_weight".
    """
    *block, layer, number = key.split(".")
    kind, _, branch = layer.partition("_")
    if block:
        stage, _, index = block[0].removeprefix("b").partition("_")
        layer = f"{'bn' if kind == 'bn' else 'res'}{stage}{f'b{index}' if index else 'a'}_{branch}"
    return f"{layer}_{NORM_NUMBERS[number] if kind.startswith('bn') else number}"


def _bare(name: str) -> str:
    return name.removeprefix("arg:").removeprefix("aux:")


def _activated(x: Tensor, norm: nn.Module) -> Tensor:
    # In place on what the norm gives, which nothing else needs.
    return F.relu(norm(x), inplace=True)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=dilation * (size // 2), dilation=dilation, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Conv2d | None:
    return None if inputs == outputs and stride == 1 else _convolution(inputs, outputs, 1, stride)
