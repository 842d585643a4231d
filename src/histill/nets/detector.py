"""A detector without anchor boxes, FCOS over a feature pyramid, on any encoder of `nets.encoders`.

Tian et al., "FCOS: Fully convolutional one-stage object detection", ICCV 2019; Lin et al., "Feature pyramid networks
for object detection", CVPR 2017. Level l has a stride of 2^l px: `c2` to `c5` are the trunk's maps, `p2` and so on the
pyramid's. Each cell of the pyramid says how likely each class is there, how far from its middle the four sides of the
object's box are, and how near the middle of the object is ("centerness").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork, batched_nms, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.nets.encoders import Encoder, build_encoder


class Objects(NamedTuple):
    """What is in an image: boxes x0, y0, x1, y1 in px, float32 [n, 4], and their classes, int64 [n]."""

    boxes: Tensor
    classes: Tensor


class Found(NamedTuple):
    """What was found in an image, by falling score: boxes float32 [n, 4], classes int64 [n], scores float32 [n]."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Views:
    """All that the detector says of a batch; its n cells stand level by level, row by row.

    Attributes:
        trunk: the trunk's maps [b, c, h / 2^l, w / 2^l] by name, `c2` and so on.
        pyramid: the pyramid's maps by name, `p3` and so on.
        logits: of the classes, float32 [b, n, k].
        sides: from the middle to the left, upper, right and lower side of the box in strides, float32 [b, n, 4], >= 0.
        centerness: logits, float32 [b, n].
        cells: the cells' own squares in px, float32 [n, 4].
    """

    trunk: dict[str, Tensor]
    pyramid: dict[str, Tensor]
    logits: Tensor
    sides: Tensor
    centerness: Tensor
    cells: Tensor

    @property
    def boxes(self) -> Tensor:
        """The box that each cell speaks of in px, float32 [b, n, 4]; may reach beyond the image."""
        middles, stride = self.cells.view(-1, 2, 2).mean(1), self.cells[:, 2:3] - self.cells[:, :1]  # [n, 2], [n, 1]
        first, last = middles - self.sides[..., :2] * stride, middles + self.sides[..., 2:] * stride
        return torch.cat([first, last], dim=-1)  # [b, n, 4]

    @property
    def scores(self) -> Tensor:
        """``sqrt(class x centerness)``, by which boxes are ranked: float32 [b, n, k]."""
        return (self.logits.sigmoid() * self.centerness.sigmoid()[..., None]).sqrt()

    def by_level(self, values: Tensor) -> dict[str, Tensor]:
        """Values of the cells [b, n, ...] by the pyramid's level, [b, h w, ...] each."""
        sizes = [each.shape[-2] * each.shape[-1] for each in self.pyramid.values()]
        return dict(zip(self.pyramid, torch.split(values, sizes, dim=1), strict=True))


class DetectorSettings(Strict):
    """A detector by the names of its parts."""

    encoder: str = "resnet50"
    """squeezenet1_0, or any timm encoder with feature maps"""
    weights: str = "imagenet"
    """what the encoder starts from: none, a file (.safetensors, .pth, .npz), or a name of the hub"""
    frozen_through: str = ""
    """with loaded weights: the encoder's map up to which nothing learns"""
    frozen_norms: bool = True
    """with loaded weights: BatchNorms keep their statistics"""
    levels: tuple[int, int] = (3, 7)
    """the pyramid's first and last level, of strides 2^l: from 2 on where objects are small"""
    reach: tuple[float, ...] = ()
    """px to the farthest side of a box up to which each level but the last answers for it; left out, 8 strides"""
    channels: Annotated[int, Field(ge=64, multiple_of=32)] = 256
    """width of the pyramid and the head, a multiple of 32: so many groups are normalised"""
    depth: Annotated[int, Field(ge=1)] = 4
    """convolutions of each branch of the head"""
    radius: Annotated[float, Field(gt=0)] = 1.5
    """strides around the middle of an object within which cells learn its box"""
    pad_to: Annotated[int, Field(ge=1)] = 32
    """images are padded at the right and below to multiples of this"""
    score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """boxes of a lower score are dropped"""
    nms: Annotated[float, Field(gt=0, le=1)] = 0.6
    """of two boxes of a class with more overlap (IoU) than this the lower in score is dropped"""
    candidates: Annotated[int, Field(ge=1)] = 1000
    """boxes of each level that are looked at, those of the highest scores"""
    most: Annotated[int, Field(ge=1)] = 100
    """boxes of an image that are kept"""


class Detector(nn.Module):
    """Trunk, pyramid and head: images in 0..1 -> boxes.

    Args:
        encoder: the trunk.
        settings: of the detector.
        classes: of objects; there is none for the background.

    Raises:
        HistillError: usage (2) if the trunk lacks the first level, or the settings do not fit each other.
    """

    def __init__(self, encoder: Encoder, settings: DetectorSettings, classes: int) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        first, last = settings.levels
        # Of several maps of one stride the deepest; finer ones than level 2 play no part.
        taps = {stride.bit_length() - 1: index for index, stride in enumerate(encoder.strides)}
        self._taps = {f"c{level}": taps[level] for level in sorted(taps) if 2 <= level <= last}
        laid = [level for level in range(first, last + 1) if level in taps]
        _check(settings, laid)
        widths = [encoder.channels[taps[level]] for level in laid]
        self.pyramid = FeaturePyramidNetwork(widths, settings.channels, Deeper(laid[-1], last, settings.channels))
        self.head = FCOSHead(settings.channels, num_anchors=1, num_classes=classes, num_convs=settings.depth)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of the trunk's and the pyramid's maps by name."""
        first, last = self.settings.levels
        trunk = {name: self.encoder.channels[index] for name, index in self._taps.items()}
        return trunk | {f"p{level}": self.settings.channels for level in range(first, last + 1)}

    def forward(self, images: Tensor) -> Views:
        """Images float [b, 3, h, w] in 0..1, of any size -> what every cell says.

        They are never resized. At the right and below they are padded with the trunk's mean colour: what its
        convolutions see beyond any edge.
        """
        to = self.settings.pad_to
        right, below = -images.shape[-1] % to, -images.shape[-2] % to
        x = F.pad(images - self.encoder.mean, (0, right, 0, below)) + self.encoder.mean
        h, w = x.shape[-2:]
        maps = self.encoder(x)
        trunk = {name: _resized(maps[i], h >> int(name[1:]), w >> int(name[1:])) for name, i in self._taps.items()}
        laid = {f"p{name[1:]}": each for name, each in trunk.items() if int(name[1:]) >= self.settings.levels[0]}
        pyramid: dict[str, Tensor] = dict(self.pyramid(laid))
        said = {name: each.float() for name, each in self.head(list(pyramid.values())).items()}
        cells = [_cells(each, 2 ** int(name[1:])) for name, each in pyramid.items()]
        return Views(
            trunk, pyramid, said["cls_logits"], said["bbox_regression"], said["bbox_ctrness"][..., 0], torch.cat(cells)
        )

    def losses(self, views: Views, truth: Sequence[Objects]) -> dict[str, Tensor]:
        """FCOS's three terms, each summed over the batch and divided by its number of cells that have an object.

        Args:
            views: of the images.
            truth: what is in each of them, in px; an image may hold nothing.

        Returns:
            By name: `classification` (focal loss), `box` (1 - GIoU), `centerness` (binary cross-entropy).
        """
        assigned = [self.assign(views, each) for each in truth]
        said = {"cls_logits": views.logits, "bbox_regression": views.sides, "bbox_ctrness": views.centerness[..., None]}
        targets = [{"boxes": each.boxes.float(), "labels": each.classes} for each in truth]
        terms = self.head.compute_loss(targets, said, [views.cells] * len(truth), assigned)
        named = {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
        return {name: terms[theirs] for name, theirs in named.items()}

    def assign(self, views: Views, truth: Objects) -> Tensor:
        """Which object each cell answers for in training: int64 [n], -1 for none.

        A cell answers for the smallest object in which its middle lies, not farther than `radius` strides from the
        object's, if the farthest side is within its level's reach. So an object narrower than a cell may have none.
        """
        cells, boxes = views.cells, truth.boxes.float()
        if not len(boxes):
            return cells.new_full((len(cells),), -1, dtype=torch.int64)
        stride = cells[:, 2:3] - cells[:, :1]  # [n, 1]
        middles = (cells[:, :2] + cells[:, 2:])[:, None] / 2  # [n, 1, 2]
        sides = torch.cat([middles - boxes[:, :2], boxes[:, 2:] - middles], dim=-1)  # [n, m, 4]
        off = (middles - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1)  # [n, m]
        least, most = self._reach(stride)
        farthest = sides.amax(-1)  # [n, m]
        fits = (sides.amin(-1) > 0) & (off < self.settings.radius * stride) & (farthest > least) & (farthest <= most)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand_as(fits)  # [n, m]
        smallest, index = areas.masked_fill(~fits, torch.inf).min(dim=1)  # [n]
        return index.masked_fill(smallest.isinf(), -1)

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[Found]:
        """Images float [b, 3, h, w] in 0..1 -> what is found in each; for a network in eval mode."""
        return self.found(self(images), images.shape[-2:])

    @torch.no_grad()
    def found(self, views: Views, size: Sequence[int]) -> list[Found]:
        """The boxes that remain after score threshold and non-maximum suppression, cut off at the images' edges.

        Args:
            views: of the images.
            size: their height and width without padding.
        """
        boxes = clip_boxes_to_image(views.boxes, tuple(size))  # [b, n, 4]
        levels = views.by_level(views.scores)
        return [self._kept(boxes[i], [scores[i] for scores in levels.values()]) for i in range(len(boxes))]

    def _kept(self, boxes: Tensor, levels: Sequence[Tensor]) -> Found:
        """One image's boxes [n, 4] with scores [h w, k] by level."""
        chosen, start, k = [], 0, levels[0].shape[1]
        for scores in levels:
            best, place = scores.flatten().topk(min(self.settings.candidates, scores.numel()))
            chosen.append(start + place[best >= self.settings.score])
            start += scores.numel()
        every = torch.cat(chosen)
        cell, classes, scores = every // k, every % k, torch.cat(list(levels)).flatten()[every]
        has_area = (boxes[cell, 2:] > boxes[cell, :2]).all(1)
        cell, classes, scores = cell[has_area], classes[has_area], scores[has_area]
        kept = batched_nms(boxes[cell], scores, classes, self.settings.nms)[: self.settings.most]
        return Found(boxes[cell[kept]], classes[kept], scores[kept])

    def _reach(self, stride: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest distance in px that a level answers for, [n, 1] each, from its cells' stride [n, 1]."""
        first, last = self.settings.levels
        ends = self.settings.reach or [8 * 2.0**level for level in range(first, last)]
        bounds = stride.new_tensor([0, *ends, torch.inf])
        level = stride.log2().round().long() - first
        return bounds[level], bounds[level + 1]

    def start(self) -> None:
        """Load the trunk's start weights and freeze what the settings say."""
        self.encoder.start_from(self.settings.weights)
        self.hold()

    def inherit(self, teacher: Detector) -> None:
        """Take over a teacher's head where it has the same shape, and its trunk where it is of the same kind.

        The head is the same at all levels of a pyramid, so that levels which are not the teacher's can begin with it
        too: the inheriting strategy of Yang et al., "Focal and global knowledge distillation for detectors", CVPR 2022.
        """
        own, theirs = self.settings, teacher.settings
        if (own.channels, own.depth) == (theirs.channels, theirs.depth):
            self.head.load_state_dict(teacher.head.state_dict())
        if own.encoder == theirs.encoder:
            self.encoder.load_state_dict(teacher.encoder.state_dict())

    def hold(self) -> None:
        """Freeze what the settings say, also where the trunk's start weights were loaded, and learnt on, elsewhere."""
        self.encoder.pretrained = self.settings.weights != "none"
        self.encoder.freeze(through=self.settings.frozen_through, norms=self.settings.frozen_norms)


class Deeper(ExtraFPNBlock):  # type: ignore[misc]
    """Levels below the trunk's last one: each a convolution of stride 2 on the one above."""

    def __init__(self, deepest: int, last: int, channels: int) -> None:
        super().__init__()
        self.names = [f"p{level}" for level in range(deepest + 1, last + 1)]
        self.steps = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in self.names)

    def forward(self, maps: list[Tensor], _: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The pyramid's maps and names, with the further ones."""
        # In bfloat16 torch on CPUs (2.15) takes such a convolution's gradient from memory that nothing was written to,
        # where its map is one cell high.
        with torch.autocast(maps[-1].device.type, enabled=False):
            for step in self.steps:
                # What the first one sees is not rectified, as in FCOS.
                deepest = maps[-1].float()
                maps.append(step(deepest if len(maps) == len(names) else F.relu(deepest)))
        return maps, names + self.names


def build_detector(settings: DetectorSettings, classes: int) -> Detector:
    """A detector of so many kinds of objects, without weights."""
    return Detector(build_encoder(settings.encoder, output_stride=32), settings, classes)


def _cells(maps: Tensor, stride: int) -> Tensor:
    """The square in px of each cell of a map, float32 [h w, 4]."""
    h, w = maps.shape[-2:]
    rows, columns = (torch.arange(side, device=maps.device, dtype=torch.float32) * stride for side in (h, w))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x + stride, y + stride], dim=-1).flatten(0, 1)  # [h w, 4]


def _resized(maps: Tensor, h: int, w: int) -> Tensor:
    # A trunk without padding in its stem rounds otherwise.
    return maps if maps.shape[-2:] == (h, w) else F.interpolate(maps, size=(h, w), mode="bilinear", align_corners=False)


def _check(settings: DetectorSettings, laid: Sequence[int]) -> None:
    """Whether the settings fit each other and the levels of the pyramid that the trunk has."""
    first, last = settings.levels
    fault = ""
    if not 2 <= first <= last:
        fault, subject, mend = f"a pyramid from level {first} to {last}", "levels", "Give two levels from 2 on, as 3, 7"
    elif not laid or laid != list(range(first, laid[-1] + 1)):
        fault, subject = f"the encoder's maps do not begin at level {first}", "levels"
        mend = f"Choose another encoder, or a first level whose stride 2^l it has; it has {laid}"
    elif settings.pad_to % 2 ** laid[-1]:
        fault, subject = f"{settings.pad_to} px are no whole cells of level {laid[-1]}", "pad_to"
        mend = f"Give a multiple of {2 ** laid[-1]}"
    elif settings.reach and (len(settings.reach) != last - first or list(settings.reach) != sorted(settings.reach)):
        fault, subject, mend = f"{len(settings.reach)} reaches", "reach", f"Give {last - first}, rising, or none"
    if fault:
        raise HistillError(fault, code=Exit.USAGE, subject=f"detector.{subject}", mend=mend)
