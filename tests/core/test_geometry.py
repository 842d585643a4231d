"""Rectangles and the images they lie in."""

from hypothesis import given
from hypothesis import strategies as st

from histill.core.geometry import Region

small = st.integers(-2, 5)


@given(small, small, small, small, st.integers(0, 5), st.integers(0, 5))
def test_inside_means_every_pixel_is_one_of_the_image(x: int, y: int, w: int, h: int, width: int, height: int) -> None:
    pixels = [(column, row) for column in range(x, x + w) for row in range(y, y + h)]
    every = all(0 <= column < width and 0 <= row < height for column, row in pixels)
    assert Region(x, y, w, h).inside(width, height) == (bool(pixels) and every)
