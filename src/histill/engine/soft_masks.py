"""Soft maps of a whole table: maps in, files out, with progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from torch import Tensor

from histill.core.manifest import Manifest
from histill.data.images import read_image
from histill.data.tiles import TileBatch, Tiles
from histill.engine.pseudo_masks import BATCH_SIZE
from histill.engine.run import Run
from histill.pseudo.refine import white_background
from histill.pseudo.soft import SoftFolder


def write_soft_masks(
    store: SoftFolder,
    train: Manifest,
    maps: Callable[[TileBatch], Tensor],
    run: Run,
    *,
    provenance: Mapping[str, str],
) -> None:
    """Keep each image's soft maps of the lesion; where the data set says that white is glass, glass has no lesion.

    How many images with the lesion have a map that does not show it, and so teach nothing, goes into the journal.

    Args:
        store: where the maps go, in the folder that `Run.once` is making.
        train: the images and their labels.
        maps: batch -> for each tap of the store a map in 0..1, float32 [b, taps, h, w].
        run: device, workers, journal.
        provenance: method, stages and checkpoints of the maps.
    """
    samples = iter(train.samples)
    lesion = train.classes.names[train.classes.lesion]
    done, having = 0, sum(lesion in sample.labels for sample in train.samples)
    silent: Counter[str] = Counter()
    for batch in Tiles(train, BATCH_SIZE, workers=run.workers).epoch(0, run.seed):
        with run.fabric.autocast():
            found = maps(batch.to(run.fabric.device)).float().cpu().numpy()  # [b, taps, h, w]
        for i in range(len(batch.ids)):
            sample = next(samples)
            h, w = int(batch.valid[i].any(1).sum()), int(batch.valid[i].any(0).sum())
            for tap, each in zip(store.taps, found[i, :, :h, :w], strict=True):
                if train.card.exclude_white:
                    each[white_background(read_image(sample.path, sample.crop))] = 0
                store.add(tap, sample, each)
                silent[tap] += lesion in sample.labels and not bool((each >= store.thresholds.foreground).any())
            done += 1
        run.journal.show("made", what=store.folder.name, done=done, of=len(train.samples))
    for tap in store.taps:
        if silent[tap]:
            text = f"the {tap} map shows no {lesion} in {silent[tap]} of {having} images that have it: they are ignored"
            run.journal.say("note", text=text)
    store.describe(provenance)
