"""A cheap scanner's view: plain down-sampling exactly, and what lens, sensor and file add to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.slides.degrade import PLAIN, Scanner, degrade


def noise_image(h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def block_means(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    h, w = image.shape[0] // factor, image.shape[1] // factor
    found = np.zeros((h, w, 3), np.uint8)
    for row in range(h):
        for column in range(w):
            block = image[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            found[row, column] = np.rint(block.astype(np.int64).sum(axis=(0, 1)) / factor**2)
    return found


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(9, 40), st.integers(9, 40), st.integers(0, 99))
def test_all_off_is_the_mean_of_each_block(factor: int, h: int, w: int, seed: int) -> None:
    image = noise_image(h, w, seed)
    assert np.array_equal(degrade(image, factor, PLAIN, generator()), block_means(image, factor))


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_means_of_halves_are_rounded_as_they_are(factor: int) -> None:
    # Two grey levels, half of a block each: every mean is an exact half.
    image = np.full((factor * 3, factor * 3, 3), 10, np.uint8)
    image[::2] = 11
    assert np.array_equal(degrade(image, factor, PLAIN, generator()), np.full((3, 3, 3), 10, np.uint8))


def test_the_rest_at_right_and_bottom_is_left_out() -> None:
    image = noise_image(23, 17)
    assert np.array_equal(
        degrade(image, 4, PLAIN, generator()), degrade(np.ascontiguousarray(image[:20, :16]), 4, PLAIN, generator())
    )
    assert degrade(image, 4, Scanner(), generator()).shape == (5, 4, 3)


@pytest.mark.parametrize(("h", "w", "factor"), [(7, 40, 8), (40, 7, 8), (40, 40, 0), (40, 40, -2)])
def test_factors_that_leave_nothing(h: int, w: int, factor: int) -> None:
    with pytest.raises(HistillError, match="times as coarse") as caught:
        degrade(noise_image(h, w), factor, PLAIN, generator())
    assert caught.value.code == Exit.USAGE


def test_the_noise_has_its_deviation_and_follows_from_the_seed() -> None:
    grey = np.full((512, 512, 3), 128, np.uint8)
    scanner = Scanner(blur=0, noise=6, quality=0)
    seen = degrade(grey, 4, scanner, generator(1))
    assert abs(float(seen.std()) - 6) < 0.15
    assert abs(float(seen.mean()) - 128) < 0.15
    assert np.array_equal(seen, degrade(grey, 4, scanner, generator(1)))
    assert not np.array_equal(seen, degrade(grey, 4, scanner, generator(2)))


def test_noise_stays_within_the_grey_levels() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    seen = degrade(image, 2, Scanner(blur=0, noise=30, quality=0), generator())
    assert seen[:, :16].max() < 150 < seen[:, 16:].min()


def test_the_lens_blurs_by_its_own_pixels() -> None:
    # An edge through a Gaussian is the normal distribution: 16 % of the way at one deviation before it.
    image = np.zeros((64, 512, 3), np.uint8)
    image[:, 256:] = 200
    edge = degrade(image, 4, Scanner(blur=2, noise=0, quality=0), generator())[8, :, 0] / 200
    centres = np.arange(128) + 0.5 - 64
    at = {x: float(np.interp(x, centres, edge)) for x in (-4.0, -2.0, 0.0, 2.0)}
    assert abs(at[-4.0] - 0.023) < 0.02
    assert abs(at[-2.0] - 0.159) < 0.02
    assert abs(at[0.0] - 0.5) < 0.02
    assert abs(at[2.0] - 0.841) < 0.02


def test_the_file_loses_more_at_lower_quality() -> None:
    image = noise_image(128, 128)
    plain = degrade(image, 2, PLAIN, generator()).astype(int)
    lost = [
        float(abs(degrade(image, 2, Scanner(blur=0, noise=0, quality=quality), generator()).astype(int) - plain).mean())
        for quality in (95, 60, 20)
    ]
    assert 0 < lost[0] < lost[1] < lost[2]


def test_colours_keep_their_places() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    r, g, b = degrade(red, 4, Scanner(), generator()).reshape(-1, 3).mean(axis=0)
    assert r > 190
    assert max(g, b) < 20
