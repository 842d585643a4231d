"""Bags: what is taken for one, places in whatever unit, and features that stay in their file until asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histill.core import bags
from histill.core.bags import Bag, BagFacts, BagFile, Unscaled
from histill.core.errors import Exit, HistillError

FEATURES = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
PLACES = np.array([[10, 20], [30, 20], [10, 40], [30, 40], [70, 80]])


def bag(**given: object) -> Bag:
    return Bag(**({"slide": "s1", "features": FEATURES, "coords": PLACES} | given))  # type: ignore[arg-type]


def failing(code: Exit = Exit.INPUT, **given: object) -> str:
    with pytest.raises(HistillError) as caught:
        bag(**given)
    assert caught.value.code == code
    assert caught.value.mend
    return str(caught.value)


# --- what is a bag ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_features_stay_what_they_are(kind: type) -> None:
    made = bag(features=FEATURES.astype(kind))
    assert made.features.dtype == kind
    assert len(made) == 5


def test_a_bag_may_be_empty() -> None:
    made = bag(features=np.zeros((0, 3), np.float32), coords=np.zeros((0, 2), np.int64))
    assert len(made) == 0
    assert made.steps().shape == (0, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1023, 1024, 2999])
def test_a_feature_that_is_not_finite_names_the_slide_and_the_row(kind: type, value: float, row: int) -> None:
    features = np.ones((3000, 2), kind)
    features[row, 1] = value
    assert f"bag s1: its features hold NaN or infinity, first in row {row}." in failing(
        Exit.NUMBERS, features=features, coords=None
    )


@given(arrays(np.uint16, (7, 3)))
def test_halves_are_told_apart_by_their_bits(bits: np.ndarray) -> None:
    halves = bits.view(np.float16)
    assert bags._finite(halves) == np.isfinite(halves).all()


def test_the_file_is_named_where_there_is_one() -> None:
    features = np.full((5, 3), np.nan, np.float32)
    assert failing(Exit.NUMBERS, features=features, path=Path("bags/s1.h5")).startswith("bags/s1.h5: ")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"features": FEATURES.astype(np.float64)}, "float64 [5, 3]"),
        ({"features": FEATURES[0]}, "float32 [3]"),
        ({"features": FEATURES[:, :0]}, "float32 [5, 0]"),
        ({"coords": PLACES[:4]}, "5 features, but 4 coordinates"),
        ({"coords": PLACES.astype(np.int32)}, "int32 [5, 2]"),
        ({"coords": PLACES[:, :1]}, "int64 [5, 1]"),
        ({"coords": PLACES + 2**40}, "no places on a slide"),
        ({"tile_side": 0}, "tile_side is 0"),
        ({"tile_px": -3}, "tile_px is -3"),
        ({"mpp": float("nan")}, "not plausible"),
        ({"mpp": 0.0}, "not plausible"),
        ({"slide_vectors": {"titan": FEATURES}}, "'titan' is float32 [5, 3]"),
        ({"slide_vectors": {"titan": np.zeros(0, np.float32)}}, "'titan'"),
    ],
)
def test_what_is_no_bag(given: dict[str, object], what: str) -> None:
    assert what in failing(**given)


def test_a_slide_vector_is_finite() -> None:
    vector = np.array([1, np.inf], np.float32)
    assert "'prism' holds NaN" in failing(Exit.NUMBERS, slide_vectors={"prism": vector})


def test_a_bag_is_shown_without_its_numbers() -> None:
    assert len(repr(bag())) < 300


def test_some_of_the_tiles() -> None:
    unscaled = Unscaled(PLACES.astype(np.float64), "um", "corner", 10.0)
    made = bag(unscaled=unscaled, tile_side=20, slide_vectors={"a": FEATURES[0]}).take(np.array([4, 0]))
    np.testing.assert_array_equal(made.features, FEATURES[[4, 0]])
    np.testing.assert_array_equal(made.coords, PLACES[[4, 0]])
    np.testing.assert_array_equal(made.unscaled.points, PLACES[[4, 0]])  # type: ignore[union-attr]
    assert made.tile_side == 20
    assert list(made.slide_vectors) == ["a"]
    assert bag(coords=None).take(np.array([1])).coords is None


# --- places -----------------------------------------------------------------------------------------------------------


def test_um_become_level0_px_with_the_spacing() -> None:
    points = np.array([[0.0, 0.0], [256.0, 512.2], [100.1, 7.0], [0, 1], [1, 0]])
    made = bag(coords=None, unscaled=Unscaled(points, "um", "corner", 256.0)).with_mpp(0.25)
    np.testing.assert_array_equal(made.coords, [[0, 0], [1024, 2049], [400, 28], [0, 4], [4, 0]])
    assert made.coords.dtype == np.int64  # type: ignore[union-attr]
    assert (made.tile_side, made.mpp, made.unscaled) == (1024, 0.25, None)


def test_centres_become_corners_with_the_spacing() -> None:
    points = np.array([[600.0, 600.0]] * 5)
    made = bag(coords=None, unscaled=Unscaled(points, "px", "centre", 128.0)).with_mpp(0.5)
    np.testing.assert_array_equal(made.coords, [[472, 472]] * 5)
    assert made.tile_side == 256


def test_places_without_a_length_stay_unscaled() -> None:
    made = bag(coords=None, unscaled=Unscaled(PLACES.astype(np.float64), "px", "centre", None)).with_mpp(0.5)
    assert made.coords is None
    assert made.mpp == 0.5
    assert made.unscaled is not None


def test_the_spacing_changes_no_px() -> None:
    np.testing.assert_array_equal(bag(mpp=0.25).with_mpp(0.5).coords, PLACES)
    with pytest.raises(HistillError, match="not plausible"):
        bag().with_mpp(-1.0)


@pytest.mark.parametrize("side", [20, None])
def test_steps_count_sides_of_a_tile(side: int | None) -> None:
    steps = bag(tile_side=side).steps()
    np.testing.assert_array_equal(steps, [[0, 0], [1, 0], [0, 1], [1, 1], [3, 3]])
    assert steps is not None
    assert steps.dtype == np.float32


def test_the_step_is_the_side_on_the_slide_and_not_in_px() -> None:
    np.testing.assert_array_equal(bag(tile_side=40, tile_px=20).steps(), (PLACES - [10, 20]) / 40)


def test_steps_of_um_and_of_centres_need_no_spacing() -> None:
    for unit, side in (("um", 20.0), ("px", 5.0), ("px", None)):
        unscaled = Unscaled(PLACES.astype(np.float64), unit, "centre", side)  # type: ignore[arg-type]
        steps = bag(coords=None, unscaled=unscaled).steps()
        np.testing.assert_array_equal(steps, [[0, 0], [1, 0], [0, 1], [1, 1], [3, 3]])
    assert bag(coords=None).steps() is None


def test_a_lone_tile_stands_at_0() -> None:
    np.testing.assert_array_equal(bag(features=FEATURES[:1], coords=PLACES[:1]).steps(), [[0, 0]])


@given(st.integers(1, 2000), st.integers(0, 10**5), st.integers(0, 10**6))
def test_the_commonest_gap_is_found_on_any_grid(side: int, left: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    full = np.stack(np.meshgrid(np.arange(12), np.arange(9)), -1).reshape(-1, 2)
    kept = random.permutation(full)[: random.integers(60, len(full))]
    assert bags._gap(kept * side + left) == side


# --- features that stay in their file ---------------------------------------------------------------------------------


def opened(rows: np.ndarray, count: int | None = None, **facts: object) -> BagFile:
    return BagFile("test", BagFacts(slide="s1", **facts), rows, count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stored", "held"), [("<f4", "f4"), (">f4", "f4"), ("<f8", "f4"), ("<f2", "f2"), (">f2", "f2"), (">f8", "f4")]
)
def test_features_are_read_as_float32_or_halves(stored: str, held: str) -> None:
    with opened(FEATURES.astype(stored)) as file:
        made = file.read()
        assert file.dtype == made.features.dtype == np.dtype(held)
        np.testing.assert_array_equal(made.features, FEATURES.astype(held))


def test_blocks_are_the_whole() -> None:
    blocks = list(opened(FEATURES, coords=PLACES).blocks(2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), FEATURES)


def test_a_bag_in_a_file_may_have_rows_that_are_no_tiles() -> None:
    file = opened(FEATURES, 4, coords=PLACES[:4])
    assert file.shape == (4, 3)
    np.testing.assert_array_equal(file.read().features, FEATURES[:4])


@pytest.mark.parametrize("rows", [FEATURES[0], FEATURES[None], FEATURES[:, :0]])
def test_a_file_of_another_shape(rows: np.ndarray) -> None:
    with pytest.raises(HistillError, match=r"not \[n, d\]"):
        opened(rows)


def test_a_file_with_other_lengths() -> None:
    with pytest.raises(HistillError, match="5 features, but 4 coordinates"):
        opened(FEATURES, coords=PLACES[:4])


def test_blocks_are_checked_and_name_the_row_of_the_file() -> None:
    features = FEATURES.copy()
    features[3] = np.nan
    file = opened(features)
    file.features(0, 3)
    with pytest.raises(HistillError, match="first in row 3"):
        file.features(2, 5)
    # More than float32 can hold.
    with pytest.raises(HistillError, match="NaN or infinity"):
        opened(np.full((2, 2), 1e300)).read()


def test_a_last_row_of_zeros_is_what_a_full_disk_leaves() -> None:
    features = FEATURES.copy()
    features[-1] = 0
    with pytest.raises(HistillError, match="last row is all zeros"):
        opened(features).read()
    opened(features).features(0, 4)


def test_the_file_is_let_go_of() -> None:
    gone: list[bool] = []
    with BagFile("test", BagFacts(slide="s"), FEATURES, release=lambda: gone.append(True)):
        assert not gone
    assert gone
