"""Bare glass: white without specks, and without small holes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from histill.pseudo.refine import white_background, without_specks


def picture() -> np.ndarray:
    return np.full((40, 60, 3), (150, 90, 140), np.uint8)


def test_glass_is_what_is_brighter_than_the_threshold() -> None:
    image = picture()
    image[:20], image[:20, :10] = 201, 200
    expected = np.zeros((40, 60), bool)
    expected[:20, 10:] = True
    np.testing.assert_array_equal(white_background(image), expected)


def test_brightness_is_that_of_the_eye_not_of_one_channel() -> None:
    image = picture()
    image[:] = (150, 255, 150)  # 0.299 R + 0.587 G + 0.114 B = 211.6
    assert white_background(image).all()
    image[:] = (255, 150, 255)  # 193.4
    assert not white_background(image).any()


def test_specks_and_holes_below_the_least_size_go_and_those_of_it_stay() -> None:
    image = picture()
    image[2:9, 2:9] = 255  # 49 px of glass: a speck
    image[2:12, 20:25] = 255  # 50 px: glass
    image[20:, :] = 255
    image[25:32, 5:12] = 0  # a hole of 49 px: filled
    image[25:35, 30:35] = 0  # one of 50 px: tissue
    expected = np.zeros((40, 60), bool)
    expected[2:12, 20:25] = True
    expected[20:] = True
    expected[25:35, 30:35] = False
    np.testing.assert_array_equal(white_background(image), expected)


def test_pixels_that_touch_at_a_corner_belong_together() -> None:
    image = picture()
    for i in range(6):
        image[i, i] = 255
    assert white_background(image, smallest=6).sum() == 6
    assert white_background(image, smallest=7).sum() == 0


def test_all_white_and_all_tissue() -> None:
    assert white_background(np.full((9, 9, 3), 255, np.uint8)).all()
    assert not white_background(picture()).any()


@given(arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))), st.integers(0, 6))
def test_specks_are_scipys_components_of_too_few_pixels(mask: np.ndarray, smallest: int) -> None:
    parts, count = label(mask, np.ones((3, 3)))
    expected = np.zeros_like(mask)
    for part in range(1, count + 1):
        if (parts == part).sum() >= smallest:
            expected |= parts == part
    np.testing.assert_array_equal(without_specks(mask, smallest), expected)
