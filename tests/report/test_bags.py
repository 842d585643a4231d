"""Pictures of a bag's tiles: exact pixels of small cases, and painting against one tile after the other."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.labels import PALETTE
from histill.report.bags import (
    COLOURS,
    HEAT,
    INK,
    MARK,
    PALE,
    PLANE,
    TINT,
    attention_picture,
    cluster_colours,
    contact_sheet,
    summary_picture,
    top_share,
)

NONE = np.zeros(0, np.int64)
VIRIDIS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0, :, ::-1]


def places(*corners: tuple[int, int]) -> np.ndarray:
    return np.array(corners, np.int64)


def pale(grey: int) -> int:
    return round(255 - (255 - grey) * PALE)


def tint(cluster: int, grey: int) -> np.ndarray:
    return np.rint(cluster_colours(cluster + 1)[cluster] * TINT + pale(grey) * (1 - TINT))


def has(picture: np.ndarray, colour: np.ndarray | tuple[int, ...]) -> np.ndarray:
    return (picture == np.asarray(colour)).all(axis=-1)


# --- colours --------------------------------------------------------------------------------------------------------


def test_clusters_have_colours_of_their_own() -> None:
    colours = cluster_colours(COLOURS)
    assert len(np.unique(colours, axis=0)) == COLOURS
    assert tuple(colours[0]) == PALETTE[0]
    np.testing.assert_array_equal(cluster_colours(7), colours[:7])
    np.testing.assert_array_equal(cluster_colours(COLOURS + 3)[COLOURS:], colours[:3])


def test_fifty_colours_can_be_told_apart() -> None:
    lab = cv2.cvtColor(cluster_colours(50)[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    far = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    # A difference of 2 can just be seen side by side.
    assert far[~np.eye(50, dtype=bool)].min() > 15
    assert far[np.arange(9), np.arange(1, 10)].min() > 40


# --- summaries ------------------------------------------------------------------------------------------------------


def test_kept_tiles_are_lit_and_the_others_tinted() -> None:
    ground = np.zeros((120, 400, 3), np.uint8)
    ground[:] = 200, 100, 150
    before = ground.copy()
    grey = int(cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY)[0, 0])
    coords = places((0, 0), (100, 0), (200, 20))
    picture = summary_picture(coords, 100, np.array([0, 1, 2]), np.array([1]), ground, (400, 120), longest=400)
    np.testing.assert_array_equal(ground, before)
    assert picture.shape[1] == 400
    assert picture.shape[0] > 120
    assert has(picture[:100, :100], tint(0, grey)).all()
    assert has(picture[20:120, 200:300], tint(2, grey)).all()
    kept = picture[:100, 100:200]
    assert has(kept[12:88, 12:88], (200, 100, 150)).all()
    # A dark line around, inside of it the cluster's colour, on all four sides.
    for turned in (kept, kept[::-1], kept.transpose(1, 0, 2), kept[:, ::-1].transpose(1, 0, 2)):
        assert has(turned[:4], INK).all()
        assert has(turned[4:12, 12:88], cluster_colours(2)[1]).all()
    # Where there is no tile the slide is grey, and paler.
    assert (picture[5:15, 250] == pale(grey)).all()
    assert grey < pale(grey) < 255


def test_level_0_px_become_px_of_the_picture() -> None:
    thumbnail = np.full((50, 100, 3), 255, np.uint8)
    picture = summary_picture(places((1000, 500)), 500, np.array([0]), NONE, thumbnail, (4000, 2000), longest=400)
    rows, columns = np.nonzero(has(picture[:200], tint(0, 255)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 99, 100, 149)
    assert len(rows) == 50 * 50


@settings(max_examples=40)
@given(data=st.data(), side=st.integers(1, 60), longest=st.sampled_from([80, 57, 23]))
def test_tiles_lie_over_each_other_in_their_order(data: st.DataObject, side: int, longest: int) -> None:
    corner = st.tuples(st.integers(-70, 100), st.integers(-70, 60))
    coords = places(*data.draw(st.lists(corner, min_size=1, max_size=12)))
    clusters = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(coords), max_size=len(coords))))
    height, width = round(40 * longest / 80), longest
    thumbnail = np.full((height, width, 3), 255, np.uint8)
    picture = summary_picture(coords, side, clusters, NONE, thumbnail, (80, 40), longest)[:height, :width]
    expected = np.full((height, width, 3), 255.0)
    scale = np.array([width / 80, height / 40])
    for (left, top), (right, bottom), cluster in zip(
        np.rint(coords * scale).astype(int).tolist(),
        np.rint((coords + side) * scale).astype(int).tolist(),
        clusters.tolist(),
        strict=True,
    ):
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        expected[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = tint(cluster, 255)
    np.testing.assert_array_equal(picture, expected)


def test_a_tile_of_less_than_a_pixel_is_a_pixel() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    picture = summary_picture(places((412, 501)), 3, np.array([0]), NONE, white, (1000, 1000), longest=10)[:10, :10]
    assert np.argwhere(has(picture, tint(0, 255))).tolist() == [[5, 4]]


def test_without_a_slide_kept_tiles_are_filled_on_a_plane_that_the_tiles_fill() -> None:
    coords = places((90_000, 70_000), (90_256, 70_000))
    picture = summary_picture(coords, 256, np.array([0, 1]), np.array([0]), None, None)
    # A tile is 64 px at most, and there is the room of one around both.
    picture = picture[:192, :256]
    assert has(picture[64:128, 128:192], tint(1, PLANE)).all()
    assert has(picture[68:124, 68:124], cluster_colours(1)[0]).all()
    assert has(picture[64:66, 64:128], INK).all()
    assert (picture[:64] == pale(PLANE)).all()
    assert (picture[128:] == pale(PLANE)).all()


def test_kept_tiles_too_small_to_see_are_drawn_larger() -> None:
    coords = np.stack(np.meshgrid(np.arange(100), np.arange(100)), axis=-1).reshape(-1, 2).astype(np.int64)
    white = np.full((200, 200, 3), 255, np.uint8)
    clusters = np.arange(10_000) % 2
    picture = summary_picture(coords * 2, 2, clusters, np.array([50 * 100 + 21]), white, (200, 200), longest=200)
    mark = picture[97:104, 39:46]
    assert len(mark) == MARK
    assert has(mark[[0, -1]], INK).all()
    assert has(mark[1:-1, 1:-1], cluster_colours(2)[1]).all()
    assert has(picture[:200, :200], INK).sum() == 24


def test_a_mark_leaves_others_to_be_seen() -> None:
    coords = np.stack(np.meshgrid(np.arange(100), np.arange(100)), axis=-1).reshape(-1, 2).astype(np.int64)
    white = np.full((200, 200, 3), 255, np.uint8)
    half = np.arange(0, 10_000, 2)
    picture = summary_picture(coords * 2, 2, np.zeros(10_000, int), half, white, (200, 200), longest=200)[:200, :200]
    assert has(picture, PALETTE[0]).mean() == 0.5
    assert has(picture, tint(0, 255)).mean() == 0.5


def test_all_kept_one_tile_and_far_beyond_the_slide() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    coords = places((0, 0), (50, 50), (90, 90), (-45, 60), (10**9, 0), (-(10**9), -5))
    everything = summary_picture(coords, 50, np.arange(6), np.arange(6), white, (100, 100), longest=100)
    assert everything.shape[1] == 340
    assert has(everything[85:89, 2:3], cluster_colours(4)[3]).all()
    assert not has(everything[:100, :100], tint(0, 255)).any()
    # The last in order lies on top: of the third only its upper left corner is on the slide.
    assert has(everything[90, 90:100], INK).all()
    one = summary_picture(places((10, 10)), 10, np.array([3]), np.array([0]), white, (100, 100), longest=100)
    assert has(one[10:20, 10:20], cluster_colours(4)[3]).any()
    assert (one[30:100, 30:100] == 255).all()


def test_a_tile_kept_twice_is_one() -> None:
    coords, clusters = places((0, 0), (9, 0)), np.array([0, 1])
    twice = summary_picture(coords, 9, clusters, np.array([1, 1]), None, None)
    np.testing.assert_array_equal(twice, summary_picture(coords, 9, clusters, np.array([1]), None, None))


def test_the_legend_says_how_many() -> None:
    def legend(count: int, kept: int) -> np.ndarray:
        coords = np.stack([np.arange(count) * 10, np.zeros(count)], axis=1).astype(np.int64)
        white = np.full((50, 600, 3), 255, np.uint8)
        return summary_picture(coords, 10, np.zeros(count, int), np.arange(kept), white, (600, 50), 600)[50:]

    assert not np.array_equal(legend(8, 2), legend(8, 3))
    assert not np.array_equal(legend(8, 2), legend(9, 2))
    assert has(legend(8, 2), PALETTE[0]).sum() == 6 * 14


def test_summaries_that_cannot_be() -> None:
    coords, clusters, white = places((0, 0), (9, 0)), np.array([0, 1]), np.full((9, 9, 3), 255, np.uint8)
    with pytest.raises(ValueError, match="no size of the slide"):
        summary_picture(coords, 9, clusters, NONE, white, None)
    with pytest.raises(ValueError, match="none of the 2"):
        summary_picture(coords, 9, clusters, np.array([2]), None, None)
    with pytest.raises(ValueError, match="clusters"):
        summary_picture(coords, 9, clusters[:1], NONE, None, None)
    with pytest.raises(ValueError, match="clusters"):
        summary_picture(coords, 9, clusters - 1, NONE, None, None)
    with pytest.raises(ValueError, match="coordinates"):
        summary_picture(coords[:0], 9, clusters[:0], NONE, None, None)


# --- attention ------------------------------------------------------------------------------------------------------


def test_attention_is_shown_by_rank() -> None:
    coords = places((0, 0), (100, 0), (200, 0), (300, 0), (400, 0))
    attention = np.array([0.001, 0.9, 0.002, 0.09, 0.002], np.float32)
    white = np.full((100, 600, 3), 255, np.uint8)
    picture = attention_picture(coords, 100, attention, white, (600, 100), longest=600)
    # Equal ones share their ranks: 1 and 2 of 0 to 4 are 1.5 each.
    for place, rank in enumerate((0, 1, 0.375, 0.75, 0.375)):
        expected = np.rint(VIRIDIS[round(rank * 255)] * np.float32(HEAT) + 255 * np.float32(1 - HEAT))
        assert has(picture[:100, 100 * place : 100 * place + 100], expected).all()
    assert (picture[:100, 500:] == 255).all()
    # The colour bar, from least to most.
    bar = picture[100 + 4 + 8]
    found = [int(np.flatnonzero(has(bar, VIRIDIS[i]))[0]) for i in (0, 64, 128, 254)]
    assert found == [found[0], found[0] + 32, found[0] + 64, found[0] + 127]


def test_what_is_looked_at_most_lies_on_top() -> None:
    coords = places((0, 0), (5, 0), (10, 0))
    picture = attention_picture(coords, 10, np.array([0.2, 0.7, 0.1]), None, None, longest=100)
    scale = 100 / 40
    row = picture[round(15 * scale)]
    assert has(row[round(15 * scale) : round(25 * scale)], VIRIDIS[255]).all()
    assert has(row[round(10 * scale) : round(15 * scale) - 1], VIRIDIS[128]).all()


def test_one_tile_and_equal_attention_are_in_the_middle() -> None:
    for coords in (places((0, 0)), places((0, 0), (10, 0))):
        picture = attention_picture(coords, 10, np.full(len(coords), 0.5), None, None)
        assert has(picture[64:128, 64:128], VIRIDIS[128]).all()


@pytest.mark.parametrize("bad", [[0.5, -0.1], [0.5, np.nan], [0.5, np.inf], [0.0, 0.0], [1.0]])
def test_attention_that_cannot_be(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="attention"):
        attention_picture(places((0, 0), (9, 0)), 9, np.array(bad), None, None)


def test_share_of_the_top() -> None:
    attention = np.array([1, 2, 3, 4, 10], np.float32)
    assert top_share(attention, 0.01) == 0.5
    assert top_share(attention, 0.2) == 0.5
    assert top_share(attention, 0.21) == 0.7
    assert top_share(attention, 1.0) == 1.0
    # 0.07 of 100 is 7.000000000000001 for a computer.
    assert top_share(np.ones(100), 0.07) == pytest.approx(0.07)


# --- contact sheets -------------------------------------------------------------------------------------------------


def plain(value: int, side: int = 20) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_a_sheet_has_tiles_in_the_order_of_clusters() -> None:
    sheet = contact_sheet([plain(10), plain(20), plain(30, 256)], [2, 0, 2], columns=2, side=40)
    # Frames of 3 px, gaps of 6.
    assert sheet.shape == (2 * 46 + 18, 2 * 46 + 18, 3)
    colours = cluster_colours(3)
    for (y, x), value, cluster in zip(((6, 6), (6, 58), (58, 6)), (20, 10, 30), (0, 2, 2), strict=True):
        assert (sheet[y + 3 : y + 43, x + 3 : x + 43] == value).all()
        assert has(sheet[y : y + 3, x : x + 46], colours[cluster]).all()
        assert has(sheet[y : y + 46, x + 43 : x + 46], colours[cluster]).all()
    assert (sheet[58:, 58:] == 255).all()


def test_titles_stand_below_their_tiles() -> None:
    sheet = contact_sheet([plain(10), plain(20)], [1, 0], ["", "a title much longer than its tile is wide"], side=40)
    assert sheet.shape == (46 + 18 + 12, 2 * 46 + 18, 3)
    below = sheet[52:70]
    assert (below[:, 6:52] < 128).any()
    assert (below[:, 52:] == 255).all()


def test_many_tiles_wrap() -> None:
    sheet = contact_sheet([plain(9)] * 250, list(range(250)), side=32)
    assert sheet.shape == (32 * 44 + 6, 8 * 44 + 6, 3)


def test_sheets_that_cannot_be() -> None:
    for tiles, clusters, titles in (([], [], None), ([plain(1)], [], None), ([plain(1)], [0], ["a", "b"])):
        with pytest.raises(ValueError, match=f"{len(tiles)} tiles"):
            contact_sheet(tiles, clusters, titles)
