"""Soft maps of a table: each image's own, at its own size; white glass and silent maps."""

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

from histill.core.card import DatasetCard
from histill.core.journal import Journal
from histill.core.manifest import Manifest
from histill.core.storage import new_folder
from histill.data.images import read_image
from histill.data.tiles import TileBatch
from histill.engine.soft_masks import write_soft_masks
from histill.pseudo.refine import white_background
from histill.pseudo.soft import SoftFolder, Thresholds

TAPS = ("red", "green")
CARD = DatasetCard(classes=("a", "b"), background="b")


def maps(batch: TileBatch) -> Tensor:
    """One stream sees the red channel, the other half of the green: it is never sure."""
    return torch.stack([batch.images[:, 0], batch.images[:, 1] / 2.2], dim=1)  # [b, 2, h, w]


def made(table: Manifest, folder: Path) -> tuple[SoftFolder, list[dict[str, Any]]]:
    shown: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(
        fabric=Fabric(accelerator="cpu", devices=1), journal=Journal(None, shown.append), workers=0, seed=0
    )
    with new_folder(folder) as temporary:
        store = SoftFolder(temporary, TAPS, table.classes, Thresholds(0.5, 0.25))
        write_soft_masks(store, table, maps, run, provenance={"method": "m"})
    return SoftFolder(folder, TAPS, table.classes, Thresholds(0.5, 0.25)), shown


def lesions(table: Manifest, **changes: Any) -> Manifest:
    samples = tuple(replace(each, id=f"{each.id}.{i}", labels=("a",)) for i in range(2) for each in table.samples)
    return replace(table, samples=samples, card=CARD.model_copy(update=changes))


def test_each_image_gets_its_own_maps(table: Manifest, tmp_path: Path) -> None:
    many = lesions(table)
    store, shown = made(many, tmp_path / "masks")
    assert [event["done"] for event in shown if event["event"] == "made"][-1] == len(many.samples) == 12
    for sample in many.samples:
        channels = read_image(sample.path).transpose(2, 0, 1).astype(np.float32) / 255
        np.testing.assert_allclose(store.soft("red", sample), channels[0], atol=0.51 / 255)
        np.testing.assert_allclose(store.soft("green", sample), channels[1] / 2.2, atol=0.51 / 255)
    assert json.loads((tmp_path / "masks" / "provenance.json").read_bytes())["streams"] == list(TAPS)


def test_maps_that_show_no_lesion_where_there_is_one_are_told_of(table: Manifest, tmp_path: Path) -> None:
    many = lesions(table)
    without = tuple(replace(sample, labels=("b",)) for sample in many.samples[:5])
    _, shown = made(replace(many, samples=without + many.samples[5:]), tmp_path / "masks")
    (note,) = [event["text"] for event in shown if event["event"] == "note"]
    assert note == "the green map shows no a in 7 of 7 images that have it: they are ignored"


@pytest.mark.parametrize("exclude", [True, False])
def test_glass_has_no_lesion_where_the_data_set_says_so(exclude: bool, table: Manifest, tmp_path: Path) -> None:
    sample = lesions(table).samples[1]
    image = read_image(sample.path)
    image[:12, :20] = 250
    Image.fromarray(image).save(sample.path)
    store, _ = made(replace(lesions(table, exclude_white=exclude), samples=(sample,)), tmp_path / "masks")
    white = white_background(image)
    assert 240 <= white.sum() < white.size / 2
    soft = store.soft("red", sample)
    assert (soft[white] == 0).all() == exclude
    np.testing.assert_allclose(soft[~white], image[..., 0][~white] / 255, atol=0.51 / 255)
