"""Patches cut from made-up slides, with image labels and masks, to learn from. All of it is synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histill.core.geometry import Region
from histill.core.manifest import Sample, read_manifest, write_manifest
from histill.core.masks import label_png, rgb_png
from histill.core.seeds import generator
from histill.core.storage import new_folder, write_inside
from histill.data.synthetic.dataset import TISSUES, WHITE, dataset_card
from histill.data.synthetic.patches import present
from histill.data.synthetic.scene import CLASSES
from histill.formats.maps import LabelImage, open_labels
from histill.slides.open import open_slide


def cut_patches(
    table: Path, folder: Path, *, per_slide: int, size: int = 224, seed: int = 0, least_tissue: float = 0.5
) -> Path:
    """Cut patches out of slides with known truth, to learn from image labels; returns the folder's `data.csv`.

    A slide is divided into squares; those with enough tissue are drawn from, the rarer their tissues the rather. A
    patch is named after its slide and place, keeps patient and split, and is labelled with what covers 5 % of it.

    Args:
        table: of slides with label maps, as `write_slides` makes it.
        folder: made whole, or not at all.
        per_slide: patches of each slide, fewer where there are not so many.
        size: side in px of the slide's largest level.
        seed: which squares are drawn.
        least_tissue: share of a patch that is to be tissue.
    """
    slides = read_manifest(table)
    slides.require("mask")
    samples = []
    with new_folder(folder) as making:
        for sample in slides.samples:
            assert sample.mask is not None
            with open_slide(sample.path, sample.mpp) as slide, open_labels(sample.mask) as truth:
                for x, y in _draw_squares(truth, per_slide, size, generator(seed, "cut", sample.id), least_tissue):
                    mask = truth.read(x, y, size, size)
                    labels = tuple(label for label in present(mask) if label != WHITE)
                    if not labels:
                        continue
                    name = f"{sample.id}-x{x}-y{y}"
                    image = slide.read_as(Region(x, y, size, size), size, size)
                    paths = making / f"images/{name}.png", making / f"masks/{name}.png"
                    write_inside(making, f"images/{name}.png", rgb_png(image))
                    write_inside(making, f"masks/{name}.png", label_png(mask, CLASSES))
                    samples.append(
                        Sample(name, paths[0], None, labels, sample.patient, sample.split, paths[1], None, sample.mpp)
                    )
        write_manifest(making / "data.csv", samples, dataset_card("histill synth slides: patches of made-up slides"))
    return folder / "data.csv"


def _draw_squares(
    truth: LabelImage, count: int, size: int, rng: np.random.Generator, least_tissue: float
) -> list[tuple[int, int]]:
    """Left and upper edges of squares with enough tissue, rare tissues first among equals."""
    height, width = truth.shape
    # A level on which a square is still 8 px wide or more says well enough what is in it.
    level = max(i for i, (rows, _) in enumerate(truth.facts.levels) if i == 0 or size * rows / height >= 8)
    rows, columns = truth.facts.levels[level]
    small = truth.read(0, 0, columns, rows, level)
    places, shares = [], []
    for y in range(0, height - size + 1, size):
        for x in range(0, width - size + 1, size):
            top, left = y * rows // height, x * columns // width
            down, across = max(1, size * rows // height), max(1, size * columns // width)
            part = small[top : top + down, left : left + across]
            places.append((x, y))
            shares.append(np.bincount(part.ravel(), minlength=len(CLASSES))[: len(TISSUES)] / part.size)
    share = np.reshape(shares, (-1, len(TISSUES)))  # [n, 6]
    share = np.where(share.sum(axis=1, keepdims=True) >= least_tissue, share, 0)
    often = np.maximum(share.sum(axis=0), 1e-9)
    weight = (share / often).sum(axis=1)  # [n]
    chosen = min(count, int(np.count_nonzero(weight)))
    if not chosen:
        return []
    return [places[i] for i in sorted(rng.choice(len(places), chosen, replace=False, p=weight / weight.sum()))]
