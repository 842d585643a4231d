"""Fields at two resolutions: boxes stay on what they are around, and all follows from (seed, epoch, index)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from histill.core.boxes import Boxes, write_boxes
from histill.core.card import DatasetCard
from histill.core.errors import HistillError
from histill.core.geometry import Region
from histill.core.manifest import Manifest, Sample
from histill.data.augment import Augmentation, Pose
from histill.data.pairs import PairBatch, Pairs, boxes_of
from histill.slides.degrade import PLAIN, Scanner

CARD = DatasetCard(classes=("glomerulus", "tubule"))
ALL = Augmentation(flip=0.5, turn=True)


def field(size: tuple[int, int], boxes: Boxes) -> NDArray[np.uint8]:
    """Grey, each box filled with a colour of its own."""
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.corners.astype(int).tolist()):
        image[y0:y1, x0:x1] = (255, 40 * i, 0)
    return image


def table(folder: Path, *fields: tuple[tuple[int, int], Boxes]) -> Manifest:
    samples = []
    for i, (size, boxes) in enumerate(fields):
        Image.fromarray(field(size, boxes)).save(folder / f"{i}.png")
        write_boxes(folder / f"{i}.json", boxes, CARD.as_classes())
        samples.append(Sample(f"s{i}", folder / f"{i}.png", boxes=folder / f"{i}.json", line=i + 2))
    return Manifest(tuple(samples), CARD, folder / "data.csv", "")


TWO = Boxes.of([(8, 12, 24, 20), (40, 30, 50, 45)], [0, 1])
NONE = Boxes.of([], [])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return table(tmp_path, ((64, 48), TWO), ((64, 64), TWO), ((64, 64), NONE))


def around(image: torch.Tensor, i: int) -> list[float]:
    """The bounds of box i's colour in an image [3, h, w]."""
    colour = (image[0] == 1) & (image[1] == torch.tensor(40 * i / 255)) & (image[2] == 0)
    y, x = torch.nonzero(colour, as_tuple=True)
    return [float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1]


def batches(pairs: Pairs, epoch: int = 0, seed: int = 5) -> list[PairBatch]:
    return list(pairs.epoch(epoch, seed))


def same(one: PairBatch, other: PairBatch) -> bool:
    images = torch.equal(one.high, other.high) and torch.equal(one.low, other.low) and one.ids == other.ids
    return images and all(torch.equal(a, b) for a, b in zip(one.boxes, other.boxes, strict=True))


def test_a_batch(manifest: Manifest) -> None:
    (batch,) = batches(Pairs(manifest, 3, ratio=8, scanner=PLAIN))
    assert batch.ids == ("s0", "s1", "s2")
    assert batch.high.shape == (3, 3, 64, 64)
    assert batch.low.shape == (3, 3, 8, 8)
    assert batch.high.dtype == batch.low.dtype == torch.float32
    assert [boxes.tolist() for boxes in batch.boxes] == [TWO.corners.tolist(), TWO.corners.tolist(), []]
    assert batch.boxes[2].shape == (0, 4)
    assert [classes.tolist() for classes in batch.classes] == [[0, 1], [0, 1], []]
    assert bool((batch.high[0, :, 48:] == 1).all()), "white below the smaller image"
    assert bool((batch.low[0, :, 6:] == 1).all())
    moved = batch.to(torch.device("meta"))
    assert {each.device.type for each in (moved.high, moved.low, *moved.boxes, *moved.classes)} == {"meta"}
    assert moved.ids == batch.ids


def test_low_is_the_block_mean_of_high(manifest: Manifest) -> None:
    for batch in batches(Pairs(manifest, 1, ratio=4, scanner=PLAIN, augmentation=ALL)):
        means = torch.nn.functional.avg_pool2d(batch.high, 4)
        assert float((batch.low - means).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("tile", [None, 32, 96])
def test_boxes_stay_on_what_they_are_around(tile: int | None, manifest: Manifest) -> None:
    pairs = Pairs(manifest, 1, ratio=4, scanner=PLAIN, tile=tile, augmentation=ALL, shuffle=True)
    seen, places = 0, set()
    for epoch in range(12):
        for batch in batches(pairs, epoch):
            assert tile is None or batch.high.shape[2:] == (tile, tile)
            for corners, index in zip(batch.boxes[0], batch.classes[0], strict=True):
                assert around(batch.high[0], int(index)) == corners.tolist()
                places.add(tuple(corners.tolist()))
                seen += 1
    assert seen > 8
    assert len(places) > 8


def test_a_window_keeps_what_is_half_seen(tmp_path: Path) -> None:
    pairs = Pairs(table(tmp_path, ((64, 64), Boxes.of([(20, 20, 40, 40)], [0]))), 1, ratio=2, scanner=PLAIN, tile=32)
    for epoch in range(30):
        (batch,) = batches(pairs, epoch)
        shown = bool((batch.high[0, 0] == 1).any())
        area = int((batch.high[0, 0] == 1).sum()) if shown else 0
        assert len(batch.boxes[0]) == (area >= 200)


def test_all_follows_from_seed_and_epoch(manifest: Manifest) -> None:
    def made(epoch: int, seed: int, workers: int = 0) -> list[PairBatch]:
        settings = Augmentation(flip=0.5, turn=True, stain=0.1)
        pairs = Pairs(
            manifest, 1, ratio=4, scanner=Scanner(), tile=32, augmentation=settings, shuffle=True, workers=workers
        )
        return batches(pairs, epoch, seed)

    one = made(1, 5)
    assert all(same(a, b) for a, b in zip(one, made(1, 5), strict=True))
    assert all(same(a, b) for a, b in zip(one, made(1, 5, workers=2), strict=True))
    assert not any(same(a, b) for a in one for b in made(2, 5))
    assert not any(same(a, b) for a in one for b in made(1, 6))


def test_the_scanner_draws_apart_from_augmentation(manifest: Manifest) -> None:
    scanner = Scanner(blur=0, noise=5, quality=0)
    still = Augmentation(flip=0)
    (one,) = batches(Pairs(manifest, 3, ratio=4, scanner=scanner))
    (other,) = batches(Pairs(manifest, 3, ratio=4, scanner=scanner, augmentation=still))
    assert same(one, other)
    (next_epoch,) = batches(Pairs(manifest, 3, ratio=4, scanner=scanner), 1)
    assert not torch.equal(one.low, next_epoch.low)
    assert torch.equal(one.high, next_epoch.high)


def test_stain_touches_both_views(manifest: Manifest) -> None:
    (plain,) = batches(Pairs(manifest, 3, ratio=4, scanner=PLAIN))
    (stained,) = batches(Pairs(manifest, 3, ratio=4, scanner=PLAIN, augmentation=Augmentation(flip=0, stain=0.3)))
    assert not torch.equal(plain.high, stained.high)
    assert not torch.equal(plain.low, stained.low)


def test_sides_that_the_ratio_does_not_divide_are_padded_with_white(tmp_path: Path) -> None:
    (batch,) = batches(Pairs(table(tmp_path, ((61, 50), TWO)), 1, ratio=8, scanner=PLAIN))
    assert batch.high.shape[2:] == (56, 64)
    assert batch.low.shape[2:] == (7, 8)
    assert batch.boxes[0].tolist() == TWO.corners.tolist()
    assert bool((batch.high[0, :, 50:] == 1).all())
    assert bool((batch.high[0, :, :, 61:] == 1).all())


def test_a_crop_has_the_boxes_that_are_seen_in_it(manifest: Manifest) -> None:
    crop = Region(10, 10, 40, 38)
    cropped = replace(manifest, samples=(replace(manifest.samples[0], crop=crop),))
    (batch,) = batches(Pairs(cropped, 1, ratio=2, scanner=PLAIN))
    assert batch.boxes[0].tolist() == [[0, 2, 14, 10], [30, 20, 40, 35]]
    assert around(batch.high[0], 0) == [0, 2, 14, 10]


def test_rows_without_boxes_and_tiles_that_do_not_fit(manifest: Manifest) -> None:
    without = replace(manifest, samples=(*manifest.samples, Sample("s9", manifest.samples[0].path, line=9)))
    with pytest.raises(HistillError, match=r"line 9 \(s9\) has no file of boxes"):
        Pairs(without, 1, ratio=4, scanner=PLAIN)
    with pytest.raises(HistillError, match="multiple of the ratio"):
        Pairs(manifest, 1, ratio=8, scanner=PLAIN, tile=60)
    with pytest.raises(HistillError, match="has no file of boxes"):
        boxes_of(without.samples[-1], CARD.as_classes())


def test_boxes_beyond_their_image_are_refused(manifest: Manifest) -> None:
    path = manifest.samples[0].boxes
    assert path is not None
    write_boxes(path, Boxes.of([(0, 0, 65, 10)], [0]), CARD.as_classes())
    with pytest.raises(HistillError, match="beyond the image of 64 x 48 px"):
        batches(Pairs(manifest, 3, ratio=4, scanner=PLAIN))


@given(st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 9), st.integers(0, 6))
def test_a_pose_moves_boxes_as_it_moves_pixels(down: bool, across: bool, turns: int, x: int, y: int) -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    image[y : y + 2, x : x + 3] = 1
    pose = Pose((down, across), turns)
    found = pose.of(image)[..., 0]
    rows, columns = np.nonzero(found)
    moved = pose.of_boxes(Boxes.of([(x, y, x + 3, y + 2)], [1]), 12, 8)
    assert moved.corners.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert moved.classes.tolist() == [1]
