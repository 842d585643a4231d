"""Pseudo-masks of a table: each image's own maps, at its own size, white glass left out."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from histill.core.journal import Journal
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest
from histill.core.storage import new_folder
from histill.data.images import read_image
from histill.data.tiles import TileBatch
from histill.engine.pseudo_masks import write_pseudo_masks
from histill.pseudo.masks import MaskFolder, pseudo_mask
from histill.pseudo.refine import white_background

TAPS = ("red", "green")


def maps(batch: TileBatch) -> list[Tensor]:
    """At the one tap the red channel speaks for class a, at the other the green; the blue for class b."""
    images = batch.images.requires_grad_()
    return [torch.stack([images[:, i], images[:, 2]], dim=1).detach() for i in range(2)]  # [b, 2, h, w]


def made(table: Manifest, folder: Path, size: int = 1) -> tuple[MaskFolder, list[int]]:
    """The masks that so many processes make, and the progress of the last of them."""
    with new_folder(folder) as temporary:
        for rank in range(size):
            shown: list[dict[str, Any]] = []
            run: Any = SimpleNamespace(
                fabric=Fabric(accelerator="cpu", devices=1),
                journal=Journal(None, shown.append),
                workers=0,
                seed=0,
                turns=(rank, size),
            )
            write_pseudo_masks(
                MaskFolder(temporary, TAPS), table, maps, run, background_threshold=0.3, provenance={"method": "m"}
            )
    return MaskFolder(folder, TAPS), [event["done"] for event in shown]


def both(table: Manifest) -> Manifest:
    return replace(table, samples=tuple(replace(sample, labels=("a", "b")) for sample in table.samples))


@pytest.mark.parametrize("background", [None, "b"])
def test_each_image_gets_the_mask_of_its_own_maps(background: str | None, table: Manifest, tmp_path: Path) -> None:
    samples = tuple(replace(each, id=f"{each.id}.{i}") for i in range(2) for each in both(table).samples)
    many = replace(table, samples=samples, card=table.card.model_copy(update={"background": background}))
    store, done = made(many, tmp_path / "masks")
    assert done[-1] == len(samples) == 12
    for sample in samples:
        channels = read_image(sample.path).transpose(2, 0, 1).astype(np.float32) / 255
        for i, tap in enumerate(TAPS):
            expected = pseudo_mask(
                channels[[i, 2]],
                np.ones(2, np.float32),
                background=None if background is None else 1,
                background_threshold=0.3,
            )
            np.testing.assert_array_equal(store.labels(tap, sample), expected.labels)
            np.testing.assert_allclose(store.confidence(tap, sample), expected.confidence, atol=0.6 / 255)
    assert json.loads((tmp_path / "masks" / "provenance.json").read_bytes()) == {"taps": list(TAPS), "method": "m"}


def test_several_processes_make_the_same_bytes(table: Manifest, tmp_path: Path) -> None:
    samples = tuple(replace(each, id=f"{each.id}.{i}") for i in range(3) for each in both(table).samples)
    many = replace(table, samples=samples)
    trees = []
    for size in (1, 2, 4):
        made(many, tmp_path / str(size), size)
        files = [path for path in sorted((tmp_path / str(size)).rglob("*")) if path.is_file()]
        trees.append({path.relative_to(tmp_path / str(size)): path.read_bytes() for path in files})
    assert len(trees[0]) == 2 * len(TAPS) * len(samples) + 1
    assert trees[1] == trees[0]
    assert trees[2] == trees[0]


@pytest.mark.parametrize("exclude", [True, False])
def test_white_glass_is_ignored_where_the_data_set_says_so(exclude: bool, table: Manifest, tmp_path: Path) -> None:
    sample = both(table).samples[1]
    image = read_image(sample.path)
    image[:12, :20] = 250
    Image.fromarray(image).save(sample.path)
    card = table.card.model_copy(update={"exclude_white": exclude})
    store, _ = made(replace(table, samples=(sample,), card=card), tmp_path / "masks")
    white = white_background(image)
    assert 240 <= white.sum() < white.size / 2
    for tap in TAPS:
        labels, confidence = store.labels(tap, sample), store.confidence(tap, sample)
        np.testing.assert_array_equal(labels == IGNORE, white if exclude else np.zeros_like(white))
        if exclude:
            assert (confidence[white] == 0).all()
