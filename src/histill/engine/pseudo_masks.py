"""Pseudo-masks of a whole table: maps in, files out, with progress."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from histill.core.labels import IGNORE
from histill.core.manifest import Manifest
from histill.data.tiles import TileBatch, Tiles
from histill.engine.run import Run
from histill.pseudo.masks import MaskFolder, pseudo_mask
from histill.pseudo.refine import white_background

BATCH_SIZE = 8
"""A constant: the make-up of a batch changes the last bits."""


def write_pseudo_masks(
    store: MaskFolder,
    train: Manifest,
    maps: Callable[[TileBatch], Sequence[Tensor]],
    run: Run,
    *,
    background_threshold: float,
    provenance: Mapping[str, str],
) -> None:
    """Turn each image's class maps into a pseudo-mask per tap; white glass is ignored where the data set says so.

    Args:
        store: where the masks go, in the folder that `Run.once` is making.
        train: the images and their labels.
        maps: batch -> for each tap of the store, class maps float32 [b, k, h, w] in 0..1.
        run: device, workers, journal; and, in a shared `once`, which batches are this process's.
        background_threshold: see `pseudo_mask`.
        provenance: method, stage and checkpoint of the maps.
    """
    classes = train.classes
    background = None if classes.background is None else classes.index(classes.background)
    begin, step = run.turns
    batches = Tiles(train, BATCH_SIZE, workers=run.workers).epoch(0, run.seed, begin=begin, step=step)
    for number, batch in zip(itertools.count(begin, step), batches, strict=False):
        found = [each.float().cpu().numpy() for each in maps(batch.to(run.fabric.device))]
        for i in range(len(batch.ids)):
            sample = train.samples[number * BATCH_SIZE + i]
            h, w = int(batch.valid[i].any(1).sum()), int(batch.valid[i].any(0).sum())
            white = _white(batch.images[i, :, :h, :w]) if train.card.exclude_white else None
            for tap, cams in zip(store.taps, found, strict=True):
                mask = pseudo_mask(
                    cams[i, :, :h, :w],
                    batch.labels[i].numpy(),
                    background=background,
                    background_threshold=background_threshold,
                    provenance={**provenance, "tap": tap},
                )
                if white is not None:
                    mask.labels[white] = IGNORE
                    mask.confidence[white] = 0
                store.add(tap, sample, mask, classes)
        # Where others make their share meanwhile, about as much is done as the first of them has behind it.
        done = min(len(train.samples), (number + step) * BATCH_SIZE)
        run.journal.show("made", what=store.folder.name, done=done, of=len(train.samples))
    if begin == 0:
        store.describe(provenance)


def _white(image: Tensor) -> NDArray[np.bool_]:
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()  # [h, w, 3]
    return white_background(np.ascontiguousarray(pixels))
