"""Every row once, with what is known around it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histill.engine.margins import with_margins
from histill.slides.stitch import Band


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), min_size=0, max_size=8), st.integers(0, 9))
def test_each_row_comes_once_with_what_is_around_it(parts: list[tuple[int, int]], reach: int) -> None:
    height = sum(gap + rows for gap, rows in parts)
    whole = np.zeros((1, height, 2), np.float32)
    seen = np.zeros(height, bool)
    bands, top = [], 0
    for gap, rows in parts:
        top += gap
        whole[0, top : top + rows] = 1 + np.arange(top, top + rows)[:, None]
        seen[top : top + rows] = True
        bands.append(Band(3, top, whole[:, top : top + rows], np.ones((rows, 2), bool)))
        top += rows
    last = -1
    given_rows = []
    for due in with_margins(iter(bands), reach):
        band, first = due.band, due.band.top + due.above
        assert band.left == 3
        assert first > last
        last = first + due.rows - 1
        given_rows += range(first, last + 1)
        for row in range(first, last + 1):
            for near in range(max(0, row - reach), min(height, row + reach + 1)):
                inside = 0 <= near - band.top < len(band.seen)
                value = band.maps[0, near - band.top, 0] if inside else 0
                assert value == whole[0, near, 0]
                assert (inside and bool(band.seen[near - band.top, 0])) == seen[near]
        assert len(band.seen) <= due.rows + 2 * reach
    assert set(np.flatnonzero(seen)) <= set(given_rows)


def test_a_row_is_due_as_soon_as_those_after_it_are_known() -> None:
    told = []

    def bands() -> list[Band]:
        return [Band(0, top, np.ones((1, 10, 1), np.float32), np.ones((10, 1), bool)) for top in (0, 10, 20)]

    for due in with_margins((told.append(("in", band.top)) or band for band in bands()), 4):
        told.append(("due", due.band.top + due.above, due.rows))
    assert told == [("in", 0), ("due", 0, 6), ("in", 10), ("due", 6, 10), ("in", 20), ("due", 16, 10), ("due", 26, 4)]
