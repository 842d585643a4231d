"""What every slide does with the levels it has, whatever file they come from."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from files import Image, blocks, coordinates, shrunk, tissue

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides import base
from histill.slides.base import Level, Slide, SlideFacts, Spacing, on_white


class ArraySlide(Slide):
    """A slide of arrays, which notes what is read of it."""

    def __init__(self, levels: list[Image], mpp: float | None = 0.25, notes: tuple[str, ...] = ()) -> None:
        self.levels = levels
        width = levels[0].shape[1]
        sizes = tuple(Level(each.shape[1], each.shape[0], width / each.shape[1]) for each in levels)
        spacing = None if mpp is None else Spacing(mpp, "user")
        super().__init__(Path("a.svs"), SlideFacts("made", sizes, spacing, notes=notes))
        self.reads: list[tuple[int, int, int, int, int]] = []
        self.closed = False

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> Image:
        self.reads.append((level, x, y, w, h))
        part = self.levels[level][y : y + h, x : x + w]
        assert part.shape == (h, w, 3), "asked for more than the level has"
        return part.copy()

    def _close(self) -> None:
        self.closed = True


def pyramid(*factors: int) -> ArraySlide:
    whole = coordinates()
    return ArraySlide([whole, *(shrunk(whole, 256 // factor, 256 // factor) for factor in factors)])


def test_its_facts() -> None:
    with pyramid(2) as slide:
        assert slide.size == (256, 256)
        assert slide.mpp == 0.25
        assert slide.at(0.5).shape == (128, 128)
        assert not slide.closed
    assert slide.closed


def test_without_a_spacing_places_are_read_in_pixels_and_um_are_an_error_that_says_why() -> None:
    slide = ArraySlide([coordinates()], mpp=None, notes=("the tag says 352 um/px",))
    assert slide.read_as(Region(0, 0, 8, 8), 8, 8).shape == (8, 8, 3)
    for ask in (lambda: slide.mpp, lambda: slide.at(0.5), lambda: slide.read(Region(0, 0, 8, 8), 0.5)):
        with pytest.raises(HistillError, match="the tag says 352 um/px") as caught:
            ask()
        assert caught.value.code == Exit.INPUT
        assert "--mpp" in caught.value.mend


small = st.integers(-20, 300)
sides = st.integers(1, 60)


@given(small, small, sides, sides)
def test_at_its_own_spacing_a_region_is_the_slice_with_white_around(x: int, y: int, w: int, h: int) -> None:
    slide = pyramid(2, 4)
    around = np.full((256 + 400, 256 + 400, 3), 255, np.uint8)
    around[100:356, 100:356] = slide.levels[0]
    np.testing.assert_array_equal(slide.read(Region(x, y, w, h), 0.25), around[y + 100 :, x + 100 :][:h, :w])


@given(
    st.sampled_from([(), (2,), (4,), (3,), (2, 4, 16)]),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(8, 32),
    st.floats(0.1, 1.9),
)
def test_pixels_land_where_they_belong(factors: tuple[int, ...], x: int, y: int, side: int, mpp: float) -> None:
    scale = mpp / 0.25
    w, h = max(1, round(side * scale)), max(1, round((side + 3) * scale))
    if x + w > 256 or y + h > 256:
        return
    slide = pyramid(*factors)
    read = slide.read(Region(x, y, w, h), mpp).astype(float)
    # The centre of pixel i of the result lies at x + (i + 0.5) * step, and level 0's pixel x has its centre at x + 0.5.
    across = x + (np.arange(read.shape[1]) + 0.5) * w / read.shape[1] - 0.5
    down = y + (np.arange(read.shape[0]) + 0.5) * h / read.shape[0] - 0.5
    # Half a pixel of the result, and half a grey level of rounding twice; interpolation stops at the outermost pixels.
    near = 0.5 * max(1.0, w / read.shape[1], h / read.shape[0]) + 1
    assert np.abs(read[:, :, 0] - across).max() <= near
    assert np.abs(read[:, :, 1] - down[:, None]).max() <= near


@pytest.mark.parametrize(
    ("side", "level"),
    [(640, 0), (256, 0), (130, 0), (129, 1), (128, 1), (65, 1), (64, 2), (17, 2), (16, 3), (1, 3)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(side: int, level: int) -> None:
    slide = pyramid(2, 4, 16)
    slide.read_as(Region(0, 0, 256, 256), side, side)
    assert [read[0] for read in slide.reads] == [level]


def test_levels_of_odd_ratios() -> None:
    whole = coordinates()
    slide = ArraySlide([whole, shrunk(whole, 85, 86), shrunk(whole, 9, 9)])
    assert slide.read(Region(0, 0, 256, 256), 0.25 * 256 / 85).shape == (85, 85, 3)
    assert slide.reads == [(1, 0, 0, 85, 85)]
    slide.read_as(Region(0, 0, 256, 256), 9, 9)
    assert slide.reads[-1] == (2, 0, 0, 9, 9)


def test_what_a_scanner_drops_when_it_shrinks_moves_nothing_and_is_not_white() -> None:
    whole = tissue(1001, 703)
    slide = ArraySlide([whole, blocks(whole, 2), blocks(whole, 16)])
    np.testing.assert_array_equal(slide.read(Region(800, 600, 200, 102), 0.5), slide.levels[1][300:351, 400:500])
    np.testing.assert_array_equal(slide.read(Region(640, 480, 320, 160), 4.0), slide.levels[2][30:40, 40:60])
    black = np.zeros((703, 1001, 3), np.uint8)
    slide = ArraySlide([black, blocks(black, 2), blocks(black, 16)])
    for side in (1001, 500, 100, 62, 10):
        assert slide.thumbnail(side).max() == 0
    assert slide.read(Region(1000, 702, 1, 1), 4.0).max() == 0
    assert slide.read(Region(1001, 0, 16, 16), 4.0).min() == 255
    np.testing.assert_array_equal(slide.read(Region(992, 0, 64, 16), 4.0)[0, 1:], np.full((3, 3), 255))


def test_a_region_wholly_outside_is_white_and_reads_nothing() -> None:
    slide = pyramid(2)
    for x, y in ((256, 0), (0, 300), (-40, 0), (10_000, 10_000)):
        assert slide.read(Region(x, y, 40, 20), 0.5).tolist() == np.full((10, 20, 3), 255).tolist()
    assert slide.reads == []


def test_half_outside_at_a_coarse_spacing() -> None:
    black = np.zeros((256, 256, 3), np.uint8)
    slide = ArraySlide([black, shrunk(black, 128, 128)])
    read = slide.read(Region(-64, 192, 128, 128), 0.5)
    assert read.shape == (64, 64, 3)
    expected = np.full((64, 64, 3), 255)
    expected[:32, 32:] = 0
    np.testing.assert_array_equal(read, expected)


def test_a_factor_of_two_is_the_mean_of_four() -> None:
    whole = tissue(64, 64)
    read = ArraySlide([whole]).read(Region(0, 0, 64, 64), 0.5).astype(float)
    assert np.abs(read - whole.reshape(32, 2, 32, 2, 3).mean((1, 3))).max() <= 0.5


def test_finer_than_the_slide_is_interpolated() -> None:
    read = ArraySlide([coordinates()]).read(Region(0, 0, 256, 4), 0.125)
    assert read.shape == (8, 512, 3)
    assert (np.diff(read[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize(("longest", "shape"), [(64, (32, 64)), (1000, (100, 200)), (1, (1, 1))])
def test_a_thumbnail_keeps_proportions_and_never_enlarges(longest: int, shape: tuple[int, int]) -> None:
    assert ArraySlide([tissue(200, 100)]).thumbnail(longest).shape == (*shape, 3)


@pytest.mark.parametrize("size", [(20, 10), (16, 16), (7, 31), (160, 1), (1, 120)])
def test_what_is_too_large_to_hold_is_read_in_parts(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tissue(160, 120)
    at_once = ArraySlide([whole]).read_as(Region(-8, 0, 160, 120), *size)
    monkeypatch.setattr(base, "MOST_AT_ONCE", 700)
    slide = ArraySlide([whole])
    parts = slide.read_as(Region(-8, 0, 160, 120), *size)
    assert parts.shape == at_once.shape == (size[1], size[0], 3)
    assert len(slide.reads) > 160 * 120 / 700 / 2
    assert max(w * h for _, _, _, w, h in slide.reads) <= 700
    assert sum(w * h for _, _, _, w, h in slide.reads) == 152 * 120
    # Cuts fall on whole pixels of the level, results between them.
    assert np.abs(parts.astype(int) - at_once).mean() < 2
    assert np.abs(parts.astype(int) - at_once).max() < 40


def test_transparency_on_white_is_the_weighted_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
    pixels[0], pixels[1, :, 3], pixels[2, :, 3] = 0, 0, 255
    share = pixels[:, :, 3:] / 255
    exact = pixels[:, :, :3] * share + 255 * (1 - share)
    read = on_white(pixels)
    assert read.dtype == np.uint8
    assert np.abs(read - exact).max() <= 0.5 + 1e-9
    assert (read[:2] == 255).all()
    np.testing.assert_array_equal(read[2], pixels[2, :, :3])
    opaque = np.dstack([pixels[:, :, :3], np.full((40, 30), 255, np.uint8)])
    np.testing.assert_array_equal(on_white(opaque), pixels[:, :, :3])
