"""Batches of bags: padding, what is said of slides, a table's width and moments, and what has no place in it."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "formats"))

from feature_files import clam, features, places, wsisum

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.data.bag_batches import (
    BagBatch,
    Bags,
    Item,
    batch_of,
    checked,
    collate,
    common_width,
    feature_moments,
    steps_of,
)
from histill.data.bags import read_bag
from histill.formats.trident import write_bag

CARD = DatasetCard(classes=("a", "b", "c"))
COUNTS = (5, 1, 9, 4, 12, 7, 3)
D = 6


def bag(slide: str, n: int, seed: int = 0, width: int = D, encoder: str = "uni") -> Bag:
    return Bag(slide=slide, features=features(n, width, seed), coords=places(n), tile_side=512, encoder=encoder)


def table_of(folder: Path, *bags: Bag, labels: Sequence[tuple[str, ...]] = ()) -> Manifest:
    samples = []
    for i, each in enumerate(bags):
        path = folder / f"{each.slide}.h5"
        write_bag(path, each)
        samples.append(Sample(f"s{i}", path, labels=labels[i] if labels else (), line=i + 2))
    return Manifest(tuple(samples), CARD, folder / "t.csv", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    bags = [bag(f"{i}", n, seed=i) for i, n in enumerate(COUNTS)]
    return table_of(tmp_path_factory.mktemp("bags"), *bags, labels=[("a",), ("b",), (), ("a", "c"), ("c",), (), ("b",)])


def scattered(sample: Sample, n: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(n)[:4]


def contents(batches: Sequence[BagBatch]) -> list[object]:
    return [
        (each.ids, *(getattr(each, name).numpy().tobytes() for name in ("features", "places", "present", "labels")))
        for each in batches
    ]


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_bags_padded_to_the_longest(table: Manifest) -> None:
    (batch,) = Bags(table, 7, D).epoch(0, 0)
    longest = max(COUNTS)
    assert batch.features.shape == (7, longest, D)
    assert batch.features.dtype == batch.places.dtype == batch.labels.dtype == torch.float32
    assert batch.ids == tuple(f"s{i}" for i in range(7))
    assert batch.labels.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    for i, n in enumerate(COUNTS):
        own = features(n, D, i)
        for j in range(longest):
            assert bool(batch.present[i, j]) == (j < n)
            assert batch.features[i, j].tolist() == (own[j].tolist() if j < n else [0] * D)
            assert batch.places[i, j].tolist() == ([j % 20, j // 20] if j < n else [0, 0])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_whatever_the_sizes_what_is_present_is_what_was_given(counts: list[int], half: bool) -> None:
    items = [
        Item(str(i), features(n, 3, i), np.full((n, 2), i, np.float32), np.ones(2, np.float32))
        for i, n in enumerate(counts)
    ]
    batch = collate(items)
    assert batch.present.sum(dim=1).tolist() == counts
    for i, item in enumerate(items):
        np.testing.assert_array_equal(batch.features[i][batch.present[i]], item.features)
        np.testing.assert_array_equal(batch.places[i][batch.present[i]], item.places)
    assert not batch.features[~batch.present].any()


def test_an_epoch_follows_from_its_number_and_seed_alone_whoever_reads(table: Manifest) -> None:
    def epoch(number: int, workers: int = 0, seed: int = 1) -> list[object]:
        bags = Bags(table, 2, D, draw=scattered, shuffle=True, workers=workers)
        return contents(list(bags.epoch(number, seed)))

    assert epoch(1) == epoch(1) == epoch(1, workers=2)
    assert len({str(each) for each in (epoch(0), epoch(1), epoch(0, seed=2))}) == 3


def test_tiles_that_are_drawn_keep_their_places_in_the_slide(table: Manifest) -> None:
    (batch,) = Bags(table, 7, D, draw=scattered).epoch(0, 0)
    assert batch.present.sum(dim=1).tolist() == [min(4, n) for n in COUNTS]
    for i, n in enumerate(COUNTS):
        own = features(n, D, i)
        rows = [int(np.flatnonzero((own == each.numpy()).all(1))[0]) for each in batch.features[i][batch.present[i]]]
        assert len(set(rows)) == min(4, n)
        assert batch.places[i][batch.present[i]].tolist() == [[row % 20, row // 20] for row in rows]


def test_a_data_set_goes_to_another_process_without_what_it_has_read(table: Manifest) -> None:
    bags = Bags(table, 7, D, draw=scattered)
    before = contents(list(bags.epoch(0, 0)))
    twin = pickle.loads(pickle.dumps(bags))
    assert len(pickle.dumps(bags)) < 20_000
    assert contents(list(twin.epoch(0, 0))) == before


def test_halves_become_floats(tmp_path: Path) -> None:
    half = replace(bag("a", 3), features=features(3, D).astype(np.float16))
    batch = batch_of(half, 2)
    assert batch.features.dtype == torch.float32
    np.testing.assert_array_equal(batch.features[0], half.features.astype(np.float32))
    assert (batch.ids, batch.labels.shape, batch.present.all()) == (("a",), (1, 2), torch.tensor(True))


def test_a_bag_without_places_lies_in_one(tmp_path: Path) -> None:
    assert steps_of(replace(bag("a", 3), coords=None)).tolist() == [[0, 0]] * 3


# --- what teachers say ------------------------------------------------------------------------------------------------


def test_what_teachers_say_and_of_which_slides_they_are_silent(table: Manifest) -> None:
    said = {
        "titan": {f"s{i}": np.full(3, i, np.float32) for i in (0, 2, 3)},
        "prism": {"s1": np.arange(2, dtype=np.float32)},
        "never": {"other": np.ones(5, np.float32)},
    }
    (batch,) = Bags(table, 7, D, vectors=said).epoch(0, 0)
    assert {name: known.tolist() for name, known in batch.known.items()} == {
        "titan": [True, False, True, True, False, False, False],
        "prism": [False, True, False, False, False, False, False],
        "never": [False] * 7,
    }
    for name, by_slide in said.items():
        for i, slide in enumerate(batch.ids):
            if slide in by_slide:
                np.testing.assert_array_equal(batch.vectors[name][i], by_slide[slide])
    assert all(bool(vectors.isfinite().all()) for vectors in batch.vectors.values())


def test_a_batch_moves_whole(table: Manifest) -> None:
    said = {"titan": {"s0": np.ones(3, np.float32)}}
    (batch,) = Bags(table, 7, D, vectors=said).epoch(0, 0)
    moved = batch.to(torch.device("meta"))
    whole = [moved.features, moved.places, moved.present, moved.labels, moved.vectors["titan"], moved.known["titan"]]
    assert {each.device.type for each in whole} == {"meta"}
    assert moved.ids == batch.ids


# --- the whole table --------------------------------------------------------------------------------------------------


def test_moments_are_means_over_bags(table: Manifest) -> None:
    mean, deviation = feature_moments(table, D)
    assert mean.dtype == deviation.dtype == np.float32
    for k in range(D):
        bags = [features(n, D, i)[:, k].astype(float).tolist() for i, n in enumerate(COUNTS)]
        centre = sum(sum(each) / len(each) for each in bags) / len(bags)
        spread = sum(sum((value - centre) ** 2 for value in each) / len(each) for each in bags) / len(bags)
        assert mean[k] == pytest.approx(centre, rel=1e-5, abs=1e-7)
        assert deviation[k] == pytest.approx(spread**0.5, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5])
def test_a_feature_that_never_changes_is_left_as_wide_as_it_is(tmp_path: Path, value: float) -> None:
    bags = [bag(name, n) for name, n in (("a", 5), ("b", 8), ("c", 3))]
    for each in bags:
        each.features[:, 2] = value
    mean, deviation = feature_moments(table_of(tmp_path, *bags), D)
    assert mean[2] == pytest.approx(value, rel=1e-6)
    assert deviation[2] == 1
    assert (deviation[[0, 1, 3, 4, 5]] != 1).all()


def test_a_small_spread_around_a_large_mean_is_kept(tmp_path: Path) -> None:
    each = bag("a", 400)
    each.features[:, 0] = 1000 + each.features[:, 1] / 100
    _, deviation = feature_moments(table_of(tmp_path, each), D)
    assert deviation[0] == pytest.approx(each.features[:, 0].astype(float).std(), rel=1e-4)


def test_the_common_width_and_encoder(table: Manifest, tmp_path: Path) -> None:
    assert common_width(table) == (D, "uni")
    # CLAM's files name no encoder: those that do decide.
    nameless = Sample("x", clam(tmp_path / "x.h5", features(4, D), places(4)))
    assert common_width(replace(table, samples=(nameless,))) == (D, "")
    assert common_width(replace(table, samples=(nameless, *table.samples))) == (D, "uni")
    # A row that is the slide's is no tile, and is as wide as the others.
    target = Sample("y", wsisum(tmp_path / "y.h5", features(5, D), places(4)))
    assert common_width(replace(table, samples=(target,))) == (D, "")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (bag("b", 4, width=D + 1), "its bags are of 2 widths: 6 .s0., 7 .s1."),
        (bag("b", 4, encoder="conch"), "its bags are of 2 encoders: uni .s0., conch .s1."),
    ],
)
def test_bags_of_two_kinds_are_refused_with_an_example_of_each(tmp_path: Path, other: Bag, what: str) -> None:
    with pytest.raises(HistillError, match=rf"t.csv: {what}. Give the features of one encoder") as caught:
        common_width(table_of(tmp_path, bag("a", 3), other))
    assert caught.value.code == Exit.USAGE


# --- what has no place in it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("rows", "code", "what"),
    [
        (np.full((3, D), np.nan, np.float32), Exit.NUMBERS, "its features hold NaN or infinity, first in row 0"),
        (np.ones((3, D + 1), np.float32), Exit.INPUT, "its features are 7 wide, those learnt from 6"),
        (np.ones((0, D), np.float32), Exit.INPUT, "it holds no tile"),
    ],
)
def test_a_bad_bag_is_named_by_its_file_whoever_reads(
    table: Manifest, tmp_path: Path, workers: int, rows: np.ndarray, code: Exit, what: str
) -> None:
    path = clam(tmp_path / "bad.h5", rows, places(len(rows))) if len(rows) else tmp_path / "bad.h5"
    if not len(rows):
        write_bag(path, replace(bag("bad", 3), features=rows, coords=places(0)))
    samples = (*table.samples[:2], replace(table.samples[2], path=path), *table.samples[3:])
    bags = Bags(replace(table, samples=samples), 2, D, workers=workers)
    with pytest.raises(HistillError, match=f"{path}: {what}") as caught:
        list(bags.epoch(0, 0))
    assert caught.value.code == code
    with pytest.raises(HistillError, match=str(path)):
        feature_moments(replace(table, samples=samples), D)


def test_a_bag_that_is_sound_comes_back(table: Manifest) -> None:
    each = read_bag(table.samples[0].path)
    assert checked(each, D) is each
