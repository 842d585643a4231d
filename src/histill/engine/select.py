"""Which epoch is kept: judged on validation images by their masks, or by their image labels, never on test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.data.batches import B, Batches
from histill.data.tiles import TileBatch, Tiles, TrueMasks
from histill.engine.run import Run
from histill.engine.tile_method import TileMethod
from histill.losses.classification import pooled_mask_loss
from histill.metrics.segmentation import confusion, mean_iou

T = TypeVar("T")
Select = Literal["auto", "masks", "labels", "last"]
"""masks: pooled mIoU; labels: the image-label loss of the pooled mask; auto: masks where there are any, else labels."""


def selection(method: TileMethod, val: Manifest | None, select: Select, run: Run) -> Callable[[], float] | None:
    """The score of a method's segmenter on validation images, the greater the better; None to keep the last epoch."""
    if select == "last" or val is None:
        return None
    by_masks = selected_by(val, select) == "masks"
    with_masks = val.choose(lambda sample: sample.mask is not None)
    if by_masks and not with_masks.samples:
        val.require("mask")
    if not by_masks:
        val.require("labels")
    chosen = with_masks if by_masks else val
    tiles = Tiles(chosen, 8, masks=TrueMasks(chosen.card) if by_masks else None)
    run.journal.say("selecting", by="masks" if by_masks else "labels", samples=len(chosen.samples))
    return (lambda: _by_masks(method, tiles, run)) if by_masks else (lambda: _by_labels(method, tiles, run))


def selected_by(val: Manifest | None, select: Select) -> Literal["masks", "labels", "last"]:
    """What a setting comes to on a validation table."""
    if select == "last" or val is None:
        return "last"
    if select == "auto":
        return "masks" if any(sample.mask is not None for sample in val.samples) else "labels"
    return select


# Several processes judge every n-th batch each: whole ones, whose numbers are the same to the last bit.


@torch.no_grad()
def _by_masks(method: TileMethod, tiles: Tiles, run: Run) -> float:
    k = len(method.classes)
    total = np.zeros((k, k), np.int64)
    for batch in tiles.epoch(0, 0, begin=run.team.rank, step=run.team.size):
        predicted = _probabilities(method, batch, run).argmax(1).cpu().numpy().astype(np.uint8)  # [b, h, w]
        truth = batch.masks[:, 0].numpy().astype(np.uint8)  # [b, h, w]
        w = truth.shape[-1]
        total += confusion(truth.reshape(-1, w), predicted.reshape(-1, w), k)
    total = np.sum(run.team.gather(total.tolist()), axis=0, dtype=np.int64)
    if not total.any():
        raise HistillError(
            "every pixel of the validation masks is ignored",
            code=Exit.USAGE,
            subject=str(tiles.manifest.path),
            mend="Give masks that say something, or set select to labels or last",
        )
    return float(mean_iou(total))


@torch.no_grad()
def _by_labels(method: TileMethod, tiles: Tiles, run: Run) -> float:
    background = method.classes.background
    named = [i for i, name in enumerate(method.classes.names) if name != background]

    def loss(batch: TileBatch) -> float:
        probabilities = _probabilities(method, batch, run)[:, named]
        labels, valid = (each.to(probabilities.device) for each in (batch.labels[:, named], batch.valid))
        return float(pooled_mask_loss(probabilities, labels, valid=valid))

    return -mean_over(tiles, loss, run)


@torch.no_grad()
def mean_over(batches: Batches[B], value: Callable[[B], float], run: Run) -> float:
    """The mean over samples of what `value` says of batches, which it is given where they came from."""
    total = 0.0
    for each in said_of(batches, lambda batch: value(batch) * len(batch.ids), run):
        total += each
    return total / batches.count


def said_of(batches: Batches[B], say: Callable[[B], T], run: Run) -> list[T]:
    """What `say` says of each batch, in their order, so that sums are those of one process."""
    own = [say(batch) for batch in batches.epoch(0, 0, begin=run.team.rank, step=run.team.size)]
    parts = run.team.gather(own)
    return [parts[number % run.team.size][number // run.team.size] for number in range(len(batches))]


def _probabilities(method: TileMethod, batch: TileBatch, run: Run) -> torch.Tensor:
    method.eval()
    with run.fabric.autocast():
        return method.probabilities(batch.to(run.fabric.device)).float()
