"""Batches of patches: images, image labels, and as many masks as the stage learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from histill.core.card import DatasetCard
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.data.augment import Augmentation, augment
from histill.data.batches import Batches
from histill.data.images import ImageCache, MaskCache

MULTIPLE = 16
"""Sides are padded to a multiple of this, the output stride at which decoders join maps."""

LEAST = 32
"""The least side: of fewer pixels some trunks' deepest map has none."""

Masks = Callable[[Sample, NDArray[np.uint8]], NDArray[np.uint8]]
"""Sample and its image uint8 [h, w, 3] -> its masks, uint8 [m, h, w]."""


@dataclass(frozen=True)
class TileBatch:
    """A batch of patches.

    Attributes:
        images: float32 [b, 3, h, w] in 0..1, channels last in memory; reflected beyond an image's edge where sizes
            differ.
        valid: bool [b, h, w]; False on that padding.
        labels: float32 [b, k], 1 where the image label names the class.
        masks: int64 [b, m, h, w], `IGNORE` on padding; m is 0 where the stage learns from labels alone.
        ids: the samples' ids.
    """

    images: Tensor
    valid: Tensor
    labels: Tensor
    masks: Tensor
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> TileBatch:
        """The same batch on another device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


class Tiles(Batches[TileBatch]):
    """Patches as batches, epoch by epoch; see `Batches`.

    Args:
        manifest: the samples.
        batch_size: samples a batch; in training the last batch of an epoch is left out if it is short.
        masks: what the stage learns from besides labels, or None.
        augmentation: what is done to images; None in inference.
        shuffle: draw a new order each epoch.
        workers: processes that read; 0 reads in this one. The batches are the same bytes.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch_size: int,
        *,
        masks: Masks | None = None,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        workers: int = 0,
    ) -> None:
        dataset = _Dataset(manifest, masks, augmentation)
        super().__init__(dataset, len(manifest.samples), collate, batch_size, shuffle=shuffle, workers=workers)
        self.manifest = manifest


@dataclass(frozen=True)
class Tile:
    """One patch in memory: image uint8 [h, w, 3], masks uint8 [m, h, w], labels float32 [k]."""

    id: str
    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    labels: NDArray[np.float32]


class _Dataset(Dataset[Tile]):
    def __init__(self, manifest: Manifest, masks: Masks | None, augmentation: Augmentation | None) -> None:
        self.samples, self.classes = manifest.samples, manifest.classes
        self.masks, self.augmentation = masks, augmentation
        self.images = ImageCache()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> Tile:
        index, seed = item
        sample = self.samples[index]
        image = self.images.read(sample)
        masks = self.masks(sample, image) if self.masks else None
        if self.augmentation is not None:
            image, masks = augment(image, masks, self.augmentation, np.random.default_rng(seed))
        if masks is None:
            masks = np.zeros((0, *image.shape[:2]), np.uint8)
        return Tile(sample.id, image, masks, self.classes.multi_hot(sample.labels))


class TrueMasks:
    """The users' own masks as what a stage learns from, m = 1; a row without one says nothing."""

    def __init__(self, card: DatasetCard) -> None:
        self._masks = MaskCache(card)

    def __call__(self, sample: Sample, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask of a sample, uint8 [1, h, w]."""
        if sample.mask is None:
            return np.full((1, *image.shape[:2]), IGNORE, np.uint8)
        return self._masks.read(sample)[None]  # [1, h, w]


def collate(tiles: Sequence[Tile]) -> TileBatch:
    """Patches to a batch: padded by reflection at the far edges, to the largest and at least `LEAST`, by `MULTIPLE`."""
    h = _up(max(tile.image.shape[0] for tile in tiles))
    w = _up(max(tile.image.shape[1] for tile in tiles))
    images = np.stack([_padded(tile.image, h, w) for tile in tiles])  # [b, h, w, 3]
    valid = np.zeros((len(tiles), h, w), bool)
    masks = np.full((len(tiles), len(tiles[0].masks), h, w), IGNORE, np.uint8)
    for i, tile in enumerate(tiles):
        rows, columns = tile.image.shape[:2]
        valid[i, :rows, :columns] = True
        masks[i, :, :rows, :columns] = tile.masks
    return TileBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255),  # [b, 3, h, w]
        valid=torch.from_numpy(valid),
        labels=torch.from_numpy(np.stack([tile.labels for tile in tiles])),
        masks=torch.from_numpy(masks).long(),
        ids=tuple(tile.id for tile in tiles),
    )


def _up(side: int) -> int:
    return max(LEAST, -(-side // MULTIPLE) * MULTIPLE)


def _padded(image: NDArray[np.uint8], h: int, w: int) -> NDArray[np.uint8]:
    below, right = h - image.shape[0], w - image.shape[1]
    # numpy reflects again and again where the padding is wider than the image.
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="symmetric") if below or right else image
