"""The picture that tissue is checked by."""

import numpy as np

from histill.core.geometry import Frame
from histill.report.tissue import LEFT_OUT, OUTLINE, TILES, tissue_picture
from histill.slides.tiling import lay_grid
from histill.slides.tissue import Dropped, Tissue

FRAME = Frame(800, 600, 0.5, 0.5)


def found(why: str = "", kind: str = "bright field") -> Tissue:
    """Tissue of 80 x 60 px: a block, beside it pen, a border and dust."""
    mask, dropped = np.zeros((60, 80), bool), np.zeros((60, 80), np.uint8)
    mask[10:40, 10:50] = not why
    for row, reason in ((5, Dropped.PEN), (25, Dropped.SMALL), (45, Dropped.BORDER)):
        dropped[row : row + 10, 60:70] = reason
    return Tissue(mask, (10.0, 10.0), why, kind, 0.02, (240, 240, 240), dropped)


def has(picture: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return (picture == colour).all(axis=2)


def test_the_outline_runs_along_the_tissue() -> None:
    thumbnail = np.full((300, 400, 3), 240, np.uint8)
    before = thumbnail.copy()
    picture = tissue_picture(thumbnail, found())
    np.testing.assert_array_equal(thumbnail, before)
    assert picture.shape[1] == 400
    assert picture.shape[0] > 300
    rows, columns = np.nonzero(has(picture[:300], OUTLINE))
    # 5 px of the picture per px of the mask.
    assert (rows.min(), rows.max()) == (49, 200)
    assert (columns.min(), columns.max()) == (49, 250)
    assert not has(picture[60:190, 60:240], OUTLINE).any()
    assert (picture[60:190, 60:240] == 240).all()


def test_what_was_left_out_is_tinted_each_in_its_colour() -> None:
    picture = tissue_picture(np.full((60, 80, 3), 240, np.uint8), found())
    for row, (_, colour) in zip((10, 30, 50), LEFT_OUT.values(), strict=True):
        np.testing.assert_allclose(picture[row, 65], 0.35 * 240 + 0.65 * np.array(colour), atol=1)
    assert picture[2, 2].tolist() == [240] * 3


def test_tiles_are_drawn_where_they_lie() -> None:
    grid = lay_grid(FRAME, found(), side=100, least_tissue=0.9)
    assert len(grid) == 12
    picture = tissue_picture(np.full((600, 800, 3), 240, np.uint8), found(), grid)[:600]
    blue = has(picture, TILES["bright field"])
    for x, y in grid.corners:
        assert (blue | has(picture, OUTLINE))[y, x : x + 100].all()
        assert (blue | has(picture, OUTLINE))[y : y + 100, x].all()
        assert not blue[y + 3 : y + 97, x + 3 : x + 97].any()


def test_tiles_too_small_to_draw_are_shown_as_the_area_they_cover() -> None:
    grid = lay_grid(FRAME, found(), side=10, overlap=0.5, least_tissue=1.0)
    picture = tissue_picture(np.full((120, 160, 3), 240, np.uint8), found(), grid)
    np.testing.assert_allclose(picture[50, 60], 0.7 * 240 + 0.3 * np.array(TILES["bright field"]), atol=1)
    assert picture[2, 2].tolist() == [240] * 3


def test_the_legend_fits_pictures_of_any_width_and_says_why_there_is_nothing() -> None:
    plain = tissue_picture(np.full((40, 1200, 3), 240, np.uint8), found())
    narrow = tissue_picture(np.full((400, 7, 3), 240, np.uint8), found("only pen marks were found"))
    assert plain.shape[0] < 40 + 40
    assert narrow.shape[1] >= 300
    assert narrow.shape[0] > 400 + 60
    # Ink of the legend, and red where there is a fault to tell.
    assert (plain[40:].min(axis=2) < 80).any()
    red = (narrow[400:, :, 0].astype(int) - narrow[400:, :, 1] > 100).sum()
    assert red > 50
    # No tissue: no line.
    assert not has(narrow[:400], OUTLINE).any()


def test_a_grid_without_tiles_is_no_trouble() -> None:
    none = found("why", "fluorescence")
    grid = lay_grid(FRAME, none, side=64, least_tissue=0.5)
    assert len(grid) == 0
    assert tissue_picture(np.zeros((60, 80, 3), np.uint8), none, grid).shape[1] >= 80
