"""Batches of patches: what an epoch holds, and how patches of unequal sizes come together."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.data.augment import Augmentation
from histill.data.batches import Share
from histill.data.tiles import LEAST, MULTIPLE, Tile, TileBatch, Tiles, TrueMasks, collate

CARD = DatasetCard(classes=("a", "b"), mask_values={"0": "a", "7": "b", "9": "ignore"})
BUSY = Augmentation(flip=0.5, turn=True, blur=0.5, stain=0.2)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("tiles")
    random = np.random.default_rng(0)
    samples = []
    for i in range(7):
        path, mask = folder / f"{i}.png", folder / f"{i}.mask.png"
        Image.fromarray(random.integers(0, 256, (20 + i, 40, 3), np.uint8)).save(path)
        Image.fromarray(random.choice(np.array([0, 7, 9], np.uint8), (20 + i, 40))).save(mask)
        crop = Region(3, 2, 17, 16) if i == 6 else None
        samples.append(Sample(f"s{i}", path, crop, ("a", "b")[: 1 + i % 2], mask=mask if i != 5 else None))
    return Manifest(tuple(samples), CARD, folder / "t.csv", "")


def contents(batches: Sequence[TileBatch]) -> list[tuple[object, ...]]:
    return [
        (batch.ids, *(getattr(batch, name).numpy().tobytes() for name in ("images", "valid", "labels", "masks")))
        for batch in batches
    ]


def epoch(tiles: Tiles, number: int, seed: int = 1) -> list[tuple[object, ...]]:
    return contents(list(tiles.epoch(number, seed)))


def test_an_epoch_follows_from_its_number_and_seed_alone(table: Manifest) -> None:
    def fresh(workers: int = 0) -> Tiles:
        return Tiles(table, 2, masks=TrueMasks(table.card), augmentation=BUSY, shuffle=True, workers=workers)

    tiles = fresh()
    first = [epoch(tiles, number) for number in range(3)]
    assert epoch(tiles, 1) == first[1]
    assert epoch(fresh(), 2) == first[2]
    assert first[0] != first[1]
    assert epoch(fresh(), 0, seed=2) != first[0]
    assert epoch(fresh(workers=2), 1) == first[1]
    unshuffled = Tiles(table, 7, augmentation=BUSY)
    assert epoch(unshuffled, 0) != epoch(unshuffled, 1)


def test_reading_draws_nothing_from_the_shared_stream(table: Manifest) -> None:
    for workers in (0, 2):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        list(Tiles(table, 4, augmentation=BUSY, shuffle=True, workers=workers).epoch(0, 0))
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_unshuffled_every_sample_comes_once_in_order(table: Manifest, size: int) -> None:
    tiles = Tiles(table, size)
    batches = list(tiles.epoch(0, 0))
    assert len(batches) == len(tiles)
    assert [name for batch in batches for name in batch.ids] == [f"s{i}" for i in range(7)]


@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 7), (2, [2] * 3), (3, [3] * 2), (7, [7]), (20, [7])])
def test_shuffled_no_sample_comes_twice_and_a_short_batch_is_left_out(
    table: Manifest, size: int, lengths: list[int]
) -> None:
    tiles = Tiles(table, size, shuffle=True)
    orders = set()
    for number in range(4):
        batches = list(tiles.epoch(number, 0))
        assert [len(batch.ids) for batch in batches] == lengths
        assert len(tiles) == len(lengths)
        names = [name for batch in batches for name in batch.ids]
        assert len(set(names)) == len(names)
        orders.add(tuple(names))
    assert len(orders) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_from_any_of_its_batches_and_leaves_out_others_turns(table: Manifest, workers: int) -> None:
    tiles = Tiles(table, 2, augmentation=BUSY, shuffle=True, workers=workers)
    whole = epoch(tiles, 1)
    assert len(whole) == 3
    for begin in range(4):
        assert contents(list(tiles.epoch(1, 1, begin=begin))) == whole[begin:]
    assert contents(list(tiles.epoch(1, 1, begin=1, step=2))) == whole[1::2]


def test_what_went_before_is_not_read(table: Manifest) -> None:
    tiles = Tiles(table, 2, shuffle=True)
    (last,) = tiles.epoch(0, 0, begin=2)
    samples = tuple(
        each if each.id in last.ids else replace(each, path=table.path.with_name("gone.png")) for each in table.samples
    )
    (again,) = Tiles(replace(table, samples=samples), 2, shuffle=True).epoch(0, 0, begin=2)
    assert again.ids == last.ids


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_of_a_batch_are_the_batch(table: Manifest, size: int) -> None:
    tiles = Tiles(table, 5, augmentation=BUSY, shuffle=True)
    assert tiles.whole == 5
    whole = list(tiles.epoch(3, 1))
    parts = [list(tiles.epoch(3, 1, share=Share(rank, size))) for rank in range(size)]
    for number, batch in enumerate(whole):
        assert [name for part in parts for name in part[number].ids] == list(batch.ids)
        lengths = [len(part[number].ids) for part in parts]
        assert max(lengths) - min(lengths) <= 1
    # A table smaller than a batch is shared all the same.
    small = Tiles(table, 20, shuffle=True)
    assert small.whole == 7
    assert sum(len(batch.ids) for rank in range(size) for batch in small.epoch(0, 0, share=Share(rank, size))) == 7


def test_readers_leave_signals_to_who_trains(table: Manifest) -> None:
    before = signal.getsignal(signal.SIGTERM)
    batches = iter(Tiles(table, 1, workers=2).epoch(0, 0))
    # One of each reader: then both have begun.
    next(batches), next(batches)
    for child in active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
    assert len(list(batches)) == 5
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_told_in_our_words_whoever_reads(table: Manifest, tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    samples = (table.samples[0], replace(table.samples[1], path=tmp_path / "bad.png"), *table.samples[2:])
    batches = Tiles(replace(table, samples=samples), 1, workers=workers).epoch(0, 0)
    assert next(batches).ids == ("s0",)
    with pytest.raises(HistillError, match=r"bad\.png: not an image") as caught:
        next(batches)
    assert caught.value.code == Exit.INPUT


def test_a_samples_augmentation_does_not_depend_on_its_place_in_the_order(table: Manifest) -> None:
    one, all_ = (Tiles(table, size, augmentation=BUSY) for size in (1, 7))
    alone = {batch.ids[0]: batch for batch in one.epoch(2, 5)}
    (together,) = all_.epoch(2, 5)
    for i, name in enumerate(together.ids):
        rows, columns = int(alone[name].valid[0].any(1).sum()), int(alone[name].valid[0].any(0).sum())
        assert torch.equal(together.images[i, :, :rows, :columns], alone[name].images[0, :, :rows, :columns])


def test_crops_labels_and_masks_are_the_rows_own(table: Manifest) -> None:
    (batch,) = Tiles(table, 7, masks=TrueMasks(table.card)).epoch(0, 0)
    assert batch.images.dtype == torch.float32
    assert batch.labels.tolist() == [[1.0, float(i % 2)] for i in range(7)]
    for i, sample in enumerate(table.samples):
        image = np.array(Image.open(sample.path))
        values = np.array(Image.open(sample.path.with_suffix(".mask.png")))
        labels = np.select([values == 0, values == 7], [0, 1], IGNORE)
        if sample.crop is not None:
            image, labels = image[2:18, 3:20], labels[2:18, 3:20]
        if sample.mask is None:
            labels = np.full_like(labels, IGNORE)
        h, w = labels.shape
        np.testing.assert_allclose(batch.images[i, :, :h, :w].permute(1, 2, 0), image / 255, rtol=1e-6)
        np.testing.assert_array_equal(batch.masks[i, 0, :h, :w], labels)
        assert batch.valid[i].sum() == h * w


def test_a_stage_without_masks_gets_none(table: Manifest) -> None:
    (batch,) = Tiles(table, 7).epoch(0, 0)
    assert batch.masks.shape == (7, 0, *batch.images.shape[-2:])


# --- collate ----------------------------------------------------------------------------------------------------------


def tile(h: int, w: int, seed: int = 0) -> Tile:
    random = np.random.default_rng(seed)
    return Tile(
        f"t{seed}",
        random.integers(0, 256, (h, w, 3), np.uint8),
        random.integers(0, 2, (2, h, w), np.uint8),
        np.array([1, 0], np.float32),
    )


def reflected(index: int, size: int) -> int:
    """The pixel that stands at an index beyond the edge, each edge pixel twice: 0 1 2 2 1 0 0 1 ..."""
    index %= 2 * size
    return index if index < size else 2 * size - 1 - index


@pytest.mark.parametrize("sizes", [[(20, 33)], [(5, 3), (40, 16)], [(32, 48), (32, 48)]])
def test_padding_reflects_is_not_valid_and_says_nothing(sizes: list[tuple[int, int]]) -> None:
    tiles = [tile(h, w, i) for i, (h, w) in enumerate(sizes)]
    batch = collate(tiles)
    height, width = (max(LEAST, -(-max(size[axis] for size in sizes) // MULTIPLE) * MULTIPLE) for axis in (0, 1))
    assert batch.images.shape == (len(sizes), 3, height, width)
    assert batch.masks.shape == (len(sizes), 2, height, width)
    for i, each in enumerate(tiles):
        h, w = each.image.shape[:2]
        for y in range(height):
            for x in range(width):
                inside = y < h and x < w
                assert bool(batch.valid[i, y, x]) == inside
                expected = each.masks[:, y, x].tolist() if inside else [IGNORE] * 2
                assert batch.masks[i, :, y, x].tolist() == expected
        rows = [reflected(y, h) for y in range(height)]
        columns = [reflected(x, w) for x in range(width)]
        pixels = (batch.images[i] * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels, each.image[rows][:, columns])


def test_a_batch_moves_whole() -> None:
    batch = collate([tile(16, 16)]).to(torch.device("meta"))
    assert {batch.images.device.type, batch.valid.device.type, batch.labels.device.type, batch.masks.device.type} == {
        "meta"
    }
    assert batch.ids == ("t0",)
