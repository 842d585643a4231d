"""Pictures of a bag's tiles where they lie on the slide: clusters and what a summary kept of them, and attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter1d

from histill.core.bags import Corners
from histill.core.labels import PALETTE
from histill.report.legend import GAP, INK, Text, with_legend
from histill.slides.base import RgbImage

COLOURS = 200
"""Clusters that have a colour of their own; later ones take these again."""

PLANE = 246
"""What tiles lie on where there is no picture of the slide."""

PALE, TINT, HEAT = 0.65, 0.5, 0.6
"""How much is left of the slide's contrast, and how much of a tile's colour lies over it: its cluster's, its heat."""

LARGEST, MARK, FILLED = 64, 7, 16
"""Side in px of a tile at most where there is no picture of the slide; of a kept tile at least, if there is room; of
kept tiles in which nothing of the slide could be made out, and which are filled."""


Pixels = NDArray[np.int32]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Laid:
    """Tiles on a picture: what they lie on, and their rectangles in its px from `first` to before `last`, [n, 2]."""

    ground: RgbImage
    first: Pixels
    last: Pixels


def cluster_colours(count: int) -> RgbImage:
    """The colours of clusters 0 to count - 1, uint8 [count, 3]; the same for a cluster however many there are.

    Each of the first `COLOURS` lies as far as can be from all before it, in CIELAB, so those of neighbouring numbers
    differ most.
    """
    return _all_colours()[np.arange(count) % COLOURS]


def summary_picture(
    coords: Corners,
    side: int,
    clusters: Integers,
    kept: Integers,
    thumbnail: RgbImage | None,
    slide_size: tuple[int, int] | None,
    longest: int = 1200,
) -> RgbImage:
    """Each tile in its cluster's colour, dimmed; those that a summary kept are lit, and outlined in this colour.

    Kept tiles that would be too small to see are drawn larger, and filled with the colour.

    Args:
        coords: int64 [n, 2], top-left corner of each tile in level-0 px; n of 1 or more. Tiles may overlap, and lie
            beyond the slide.
        side: of a tile in level-0 px.
        clusters: int [n], from 0.
        kept: int [budget], which tiles the summary holds.
        thumbnail: the whole slide, uint8 [h, w, 3], of any size; None for a plane that the tiles just fill.
        slide_size: width and height in level-0 px; a thumbnail needs it.
        longest: of the slide's sides, in px.

    Returns:
        uint8 [h', w', 3]: the picture above a legend; at least 340 px wide.

    Raises:
        ValueError: lengths that do not fit, a tile or cluster that cannot be, or a thumbnail without `slide_size`.
    """
    laid = _laid(coords, side, thumbnail, slide_size, longest)
    if clusters.shape != (len(coords),) or clusters.min() < 0:
        raise ValueError(f"clusters {clusters.shape} for {len(coords)} tiles, each 0 or more")
    if kept.ndim != 1 or (len(kept) and (kept.min() < 0 or kept.max() >= len(coords))):
        raise ValueError(f"a tile is kept that is none of the {len(coords)}")
    kept = np.unique(kept).astype(np.int64)
    # The colour of each tile.
    colours = cluster_colours(int(clusters.max()) + 1)[clusters]  # [n, 3]
    top = _on_top(laid.first, laid.last, np.arange(len(coords)), laid.ground.shape[:2])
    picture = _tinted(laid.ground, top, colours, TINT)
    if len(kept):
        _light(picture, laid, kept, colours[kept], int((top >= 0).sum()), filled=thumbnail is None)
    present = np.unique(clusters)
    # The colours themselves, as many as a line holds.
    swatches = np.repeat(np.repeat(cluster_colours(int(present[-1]) + 1)[None, present[:50]], 6, axis=1), 14, axis=0)
    items = (
        (Text(f"{len(coords):,} tile{'s'[: len(coords) != 1]}"),),
        (Text(f"{len(kept):,} kept ({len(kept) / len(coords):.1%}), outlined"),),
        (Text(f"{len(present)} cluster{'s'[: len(present) != 1]}"), swatches),
    )
    return with_legend(picture, items)


def attention_picture(
    coords: Corners,
    side: int,
    attention: NDArray[np.floating[Any]],
    thumbnail: RgbImage | None,
    slide_size: tuple[int, int] | None,
    longest: int = 1200,
) -> RgbImage:
    """A heat map of attention over the slide: a tile's colour is the share of tiles that are looked at less.

    By rank, as few tiles hold most of the attention. Where tiles overlap, the one looked at most is on top.

    Args:
        coords: int64 [n, 2], top-left corner of each tile in level-0 px; n of 1 or more.
        side: of a tile in level-0 px.
        attention: float [n], 0 or more each, and not all of them 0.
        thumbnail: the whole slide, uint8 [h, w, 3], of any size; None for a plane that the tiles just fill.
        slide_size: width and height in level-0 px; a thumbnail needs it.
        longest: of the slide's sides, in px.

    Returns:
        uint8 [h', w', 3]: the picture above its colour bar; at least 340 px wide.

    Raises:
        ValueError: as `summary_picture`; attention that is negative or not finite, or nowhere.
    """
    laid = _laid(coords, side, thumbnail, slide_size, longest)
    if attention.shape != (len(coords),):
        raise ValueError(f"attention {attention.shape} for {len(coords)} tiles")
    weights = attention.astype(np.float64)
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ValueError("attention is negative, not finite, or nowhere")
    heat = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0, :, ::-1]  # [256, 3]
    colours = heat[np.rint(_percentile(weights) * 255).astype(int)]  # [n, 3]
    top = _on_top(laid.first, laid.last, np.argsort(weights, kind="stable"), laid.ground.shape[:2])
    picture = _tinted(laid.ground, top, colours, HEAT if thumbnail is not None else 1.0)
    bar: NDArray[np.uint8] = np.repeat(heat[None, ::2], 14, axis=0).astype(np.uint8)  # [14, 128, 3]
    shares = [(Text(f"top {part:.0%} of tiles: {top_share(weights, part):.1%} of attention"),) for part in (0.01, 0.1)]
    return with_legend(picture, [(Text("least looked at"), bar, Text("most looked at")), *shares])


def top_share(attention: NDArray[np.floating[Any]], part: float) -> float:
    """The share of all attention that the most looked-at tiles hold.

    Args:
        attention: float [n], 0 or more each, and not all of them 0.
        part: of the tiles, rounded up to whole ones: 0.01 for the top hundredth.
    """
    weights = np.sort(attention.astype(np.float64))[::-1]
    return float(weights[: max(1, int(np.ceil(round(part * len(weights), 6))))].sum() / weights.sum())


def contact_sheet(
    tiles: Sequence[RgbImage],
    clusters: Sequence[int],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    side: int = 128,
) -> RgbImage:
    """Tiles in the order of their clusters, row by row, each in a frame of its cluster's colour.

    Args:
        tiles: uint8 [h, w, 3] each, squares of any size; 1 or more.
        clusters: of each tile, from 0.
        titles: a short text to stand below each tile; None for none.
        columns: tiles in a row at most.
        side: of a tile on the sheet in px, without its frame.

    Returns:
        uint8 [h', w', 3], on white.

    Raises:
        ValueError: no tiles, or not as many clusters or titles as tiles.
    """
    if not tiles or len(clusters) != len(tiles) or len(titles if titles is not None else tiles) != len(tiles):
        raise ValueError(
            f"{len(tiles)} tiles, {len(clusters)} clusters, {'no' if titles is None else len(titles)} titles"
        )
    frame = max(3, side // 24)
    wide = side + 2 * frame
    high = wide + (18 if titles is not None else 0)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = columns * (wide + GAP) + GAP, rows * (high + GAP) + GAP
    sheet = Image.new("RGB", size, "white")
    order = np.argsort(np.asarray(clusters), kind="stable").tolist()
    colours = cluster_colours(max(clusters) + 1).tolist()
    for place, index in enumerate(order):
        # A cell of its own, so that a long title ends where it does.
        cell = Image.new("RGB", (wide, high), "white")
        cell.paste(tuple(colours[clusters[index]]), (0, 0, wide, wide))
        cell.paste(Image.fromarray(_resized(tiles[index], side, side)), (frame, frame))
        if titles is not None:
            ImageDraw.Draw(cell).text((1, wide + 1), titles[index], fill=INK, font=ImageFont.load_default(13))
        row, column = divmod(place, columns)
        sheet.paste(cell, (GAP + column * (wide + GAP), GAP + row * (high + GAP)))
    return np.asarray(sheet)


@lru_cache(maxsize=1)
def _all_colours() -> RgbImage:
    """Colours of which each is the farthest from all before it, [COLOURS, 3]."""
    steps = np.linspace(0, 1, 14, dtype=np.float32)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
    grid = np.concatenate([np.array([[PALETTE[0]]], np.float32) / 255, grid], axis=1)  # [1, m, 3]
    lab = cv2.cvtColor(grid, cv2.COLOR_RGB2LAB)[0]  # [m, 3]
    # None that is nearly black, white or grey, and not seen as a tint; none that glares.
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    clear = (lab[:, 0] > 35) & (lab[:, 0] < 78) & (chroma > 32) & (chroma < 88)
    colours, lab = grid[0, clear], lab[clear]
    chosen, nearest = [0], np.full(len(lab), np.inf)
    while len(chosen) < COLOURS:
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    found: RgbImage = np.rint(colours[chosen] * 255).astype(np.uint8)
    return found


def _laid(
    coords: Corners, side: int, thumbnail: RgbImage | None, slide_size: tuple[int, int] | None, longest: int
) -> _Laid:
    if coords.ndim != 2 or coords.shape[1] != 2 or not len(coords) or side < 1:
        raise ValueError(f"coordinates {coords.shape} of tiles of side {side}")
    if thumbnail is None:
        # With a tile's side around them.
        origin, extent = coords.min(axis=0) - side, np.ptp(coords, axis=0) + 3 * side
        scale = np.full(2, min(longest / extent.max(), LARGEST / side))
        width, height = (max(1, round(length)) for length in (extent * scale).tolist())
        ground = np.full((height, width, 3), PLANE, np.uint8)
    elif slide_size is None:
        raise ValueError("a thumbnail, but no size of the slide: nobody knows where tiles lie on it")
    else:
        origin, extent = np.zeros(2), np.array(slide_size)
        width, height = (max(1, round(length)) for length in (extent * longest / extent.max()).tolist())
        scale = np.array([width, height]) / extent
        ground = _resized(thumbnail, width, height)
    first = np.rint((coords - origin) * scale)
    last = np.maximum(np.rint((coords + side - origin) * scale), first + 1)
    # Far beyond the picture it does not matter how far.
    limits = -2 * longest, 2 * longest
    return _Laid(ground, first.clip(*limits).astype(np.int32), last.clip(*limits).astype(np.int32))


def _on_top(first: Pixels, last: Pixels, order: Integers, size: tuple[int, int]) -> Pixels:
    """Which tile is seen at each pixel if they are laid down in that order, int32 [h, w]; -1 where there is none.

    It takes as long for many tiles as for few: the number of a tile's turn is put where its corner is, and spreads over
    the tile as the largest of all in a window. There are at most four sizes of window, from rounding.
    """
    height, width = size
    turn = np.empty(len(order), np.int32)
    turn[order] = np.arange(1, len(order) + 1)
    seen = order[((last > 0) & (first < (width, height)))[order].all(axis=1)]
    sides = last - first  # [n, 2]
    # Corners may lie beyond the picture's left and upper edge.
    right, below = sides.max(axis=0).tolist()
    top = np.zeros((height + below, width + right), np.int32)
    kinds = sides[seen, 0].astype(np.int64) << 32 | sides[seen, 1]
    for kind in np.unique(kinds).tolist():
        these, (w, h) = seen[kinds == kind], divmod(kind, 1 << 32)
        corners = np.zeros_like(top)
        # Of several with the same corner the last stays.
        corners[first[these, 1] + below, first[these, 0] + right] = turn[these]
        corners = maximum_filter1d(corners, w, axis=1, origin=(w - 1) // 2, mode="constant")
        corners = maximum_filter1d(corners, h, axis=0, origin=(h - 1) // 2, mode="constant")
        np.maximum(top, corners, out=top)
    numbers = np.concatenate([[-1], order]).astype(np.int32)
    return numbers[top[below:, right:]]  # [h, w]


def _tinted(ground: RgbImage, top: Pixels, colours: RgbImage, opacity: float) -> RgbImage:
    """The ground in pale grey, with each tile's colour laid over it."""
    grey = cv2.cvtColor(cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # [h, w, 3]
    picture: RgbImage = np.rint(255 - (255 - grey) * np.float32(PALE)).astype(np.uint8)
    tiled = top >= 0
    laid = colours[top[tiled]] * np.float32(opacity) + picture[tiled] * np.float32(1 - opacity)
    picture[tiled] = np.rint(laid).astype(np.uint8)
    return picture


def _light(picture: RgbImage, laid: _Laid, kept: Integers, colours: RgbImage, area: int, *, filled: bool) -> None:
    """Draw kept tiles as they are on the slide, or filled with their colours, within outlines.

    Args:
        picture: to draw on.
        laid: all tiles.
        kept: int [budget].
        colours: uint8 [budget, 3].
        area: of all tiles together in px.
        filled: whether there is nothing of the slide to show.
    """
    first, last = laid.first[kept], laid.last[kept]
    side = int((last - first).max())
    # Small ones become larger, but must leave some of the others to be seen.
    mark = int(min(MARK, np.sqrt(area / (2 * len(kept)))))
    if side < mark:
        first = (first + last - mark) // 2
        last, side = first + mark, mark
    top = _on_top(first, last, np.arange(len(kept)), picture.shape[:2])
    y, x = np.nonzero(top >= 0)
    tile = top[y, x]
    place = np.stack([x, y], axis=1)
    depth = np.minimum(place - first[tile], last[tile] - 1 - place).min(axis=1)  # [m], px from the tile's edge
    line = max(min(side // 4, 2), side // 24)
    band = line + max(2, side // 12)
    inner = colours[tile] if filled or side < FILLED else laid.ground[y, x]
    shown = np.where((depth < band)[:, None], colours[tile], inner)
    picture[y, x] = np.where((depth < line)[:, None], np.array(INK, np.uint8), shown)


def _percentile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value among all, float64 [n] between 0 and 1; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2) / max(1, len(values) - 1)
    return ranks[which] if len(values) > 1 else np.full(1, 0.5)


def _resized(picture: RgbImage, width: int, height: int) -> RgbImage:
    how = cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how), np.uint8)
