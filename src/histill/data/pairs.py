"""Batches of fields seen twice: by a good scanner and, coarser, by a cheap one; with the boxes of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from histill.core.boxes import Boxes, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample, table_error
from histill.core.seeds import generator
from histill.data.augment import Augmentation, Pose, recolour
from histill.data.batches import Batches
from histill.data.images import ImageCache, image_size
from histill.slides.degrade import Scanner, degrade

WHITE = 255
"""What lies beyond an image: empty glass."""


@dataclass(frozen=True)
class PairBatch:
    """A batch of fields at two resolutions. Pixel (x, y) of `low` shows the block of `high` from (x, y) * H / h on.

    Attributes:
        high: float32 [b, 3, H, W] in 0..1; white beyond an image's edge where sizes differ.
        low: float32 [b, 3, h, w] in 0..1.
        boxes: for each field float32 [n, 4], x0, y0, x1, y1 in px of `high`.
        classes: for each field int64 [n].
        ids: the samples' ids.
    """

    high: Tensor
    low: Tensor
    boxes: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on another device."""

        def moved(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(each.to(device, non_blocking=True) for each in tensors)

        high, low = moved((self.high, self.low))
        return replace(self, high=high, low=low, boxes=moved(self.boxes), classes=moved(self.classes))


class Pairs(Batches[PairBatch]):
    """Fields at two resolutions as batches, epoch by epoch; see `Batches`.

    Args:
        manifest: the samples; each needs a file of boxes.
        batch_size: samples a batch; in training the last batch of an epoch is left out if it is short.
        ratio: how many times as coarse the low resolution is.
        scanner: what else the cheap scanner does.
        tile: side of the square windows in px that are cut at random; None takes images whole.
        augmentation: what is done to the field before it is seen twice; None in inference.
        shuffle: draw a new order each epoch.
        workers: processes that read; 0 reads in this one. The batches are the same bytes.

    Raises:
        HistillError: usage (2) if rows lack boxes, or a tile is no multiple of the ratio.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch_size: int,
        *,
        ratio: int,
        scanner: Scanner,
        tile: int | None = None,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        workers: int = 0,
    ) -> None:
        if ratio < 1 or (tile is not None and (tile < 1 or tile % ratio)):
            raise HistillError(
                f"a tile of {tile} px cannot be seen {ratio} times as coarse",
                code=Exit.USAGE,
                subject="tile",
                mend="Give a multiple of the ratio",
            )
        manifest.require("boxes")
        dataset = _Dataset(manifest, ratio, scanner, tile, augmentation)
        super().__init__(dataset, len(manifest.samples), collate, batch_size, shuffle=shuffle, workers=workers)
        self.manifest = manifest


@dataclass(frozen=True)
class Pair:
    """One field in memory: high uint8 [H, W, 3], low uint8 [h, w, 3], boxes in px of `high`."""

    id: str
    high: NDArray[np.uint8]
    low: NDArray[np.uint8]
    boxes: Boxes


class _Dataset(Dataset[Pair]):
    def __init__(
        self, manifest: Manifest, ratio: int, scanner: Scanner, tile: int | None, augmentation: Augmentation | None
    ) -> None:
        self.samples, self.classes = manifest.samples, manifest.classes
        self.ratio, self.scanner, self.tile, self.augmentation = ratio, scanner, tile, augmentation
        self.images = ImageCache()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> Pair:
        index, seed = item
        sample, random = self.samples[index], np.random.default_rng(seed)
        image = self.images.read(sample)
        boxes = boxes_of(sample, self.classes)
        if self.tile is not None:
            image, boxes = _window(image, boxes, self.tile, random)
        image = _padded(image, *(-(-side // self.ratio) * self.ratio for side in image.shape[:2]))
        if self.augmentation is not None:
            height, width = image.shape[:2]
            pose = Pose.draw(self.augmentation, height == width, random)
            boxes = pose.of_boxes(boxes, width, height)
            image = recolour(pose.of(image), self.augmentation, random)
        # A stream of its own: the noise is the same whatever else was drawn.
        low = degrade(image, self.ratio, self.scanner, generator(seed, "scanner"))
        return Pair(sample.id, image, low, boxes)


def seen_coarser(
    image: NDArray[np.uint8], ratio: int, scanner: Scanner, random: np.random.Generator
) -> NDArray[np.uint8]:
    """An image as the cheap scanner sees it, with white at the right and below where the ratio does not divide it.

    Args:
        image: uint8 [h, w, 3].
        ratio: how many times as coarse.
        scanner: what else it does.
        random: where its noise comes from.

    Returns:
        uint8 [ceil(h / ratio), ceil(w / ratio), 3].
    """
    whole = _padded(image, *(-(-side // ratio) * ratio for side in image.shape[:2]))
    return degrade(whole, ratio, scanner, random)


def boxes_of(sample: Sample, classes: Classes) -> Boxes:
    """The true boxes of a sample, in the pixels of its crop if it is one, of which at least half must be seen there.

    Raises:
        HistillError: usage (2) with every fault of the file; input (4) if the sample has none, or it cannot be read.
    """
    if sample.boxes is None:
        raise HistillError("has no file of boxes", code=Exit.INPUT, subject=sample.id, mend="Fill in the column boxes")
    height, width = image_size(sample.path)
    boxes = read_boxes(sample.boxes, classes, (width, height))
    if sample.crop is None:
        return boxes
    return boxes.shifted(-sample.crop.x, -sample.crop.y).clipped(sample.crop.w, sample.crop.h)


def require_sound_boxes(manifest: Manifest) -> None:
    """Read every file of boxes once.

    Raises:
        HistillError: usage (2) with every fault and its line, if a row lacks a file of boxes, or has one that does not
            fit its image or the table's classes.
    """
    manifest.require("boxes")
    faults = []
    for sample in manifest.samples:
        try:
            boxes_of(sample, manifest.classes)
        except HistillError as error:
            faults.append(f"line {sample.line} ({sample.id}): {error.subject}: {error.what.strip()}")
    if faults:
        raise table_error(manifest.path, faults, "Correct these files")


def collate(pairs: Sequence[Pair]) -> PairBatch:
    """Fields to a batch, padded with white at the right and below to the largest."""
    return PairBatch(
        high=_stacked([pair.high for pair in pairs]),
        low=_stacked([pair.low for pair in pairs]),
        boxes=tuple(torch.from_numpy(pair.boxes.corners) for pair in pairs),
        classes=tuple(torch.from_numpy(pair.boxes.classes) for pair in pairs),
        ids=tuple(pair.id for pair in pairs),
    )


def _stacked(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    h, w = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stacked = np.stack([_padded(image, h, w) for image in images])  # [b, h, w, 3]
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div_(255)  # [b, 3, h, w]


def _window(
    image: NDArray[np.uint8], boxes: Boxes, side: int, random: np.random.Generator
) -> tuple[NDArray[np.uint8], Boxes]:
    """A square window of an image at random, white where the image is smaller, and what is seen of its boxes."""
    y, x = (int(random.integers(max(length - side, 0) + 1)) for length in image.shape[:2])
    cut = _padded(image[y : y + side, x : x + side], side, side)
    return cut, boxes.shifted(-x, -y).clipped(side, side)


def _padded(image: NDArray[np.uint8], h: int, w: int) -> NDArray[np.uint8]:
    below, right = h - image.shape[0], w - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=WHITE) if below or right else image
