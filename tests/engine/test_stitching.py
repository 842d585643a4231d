"""From tiles to bands: reading in strips, batches of one size, and the blended map against a slow version."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid, Region
from histill.core.labels import IGNORE, Classes
from histill.data.tiles import TileBatch
from histill.engine.stitching import (
    LONGEST_READ,
    DecidedBand,
    TileMaps,
    Unreadable,
    Wanted,
    decided_bands,
    read_tiles,
    segment_tiles,
)
from histill.formats.outlines import Outline
from histill.formats.raster import OutlineRaster
from histill.slides.stitch import blend_window
from histill.slides.tissue import Tissue

Request = tuple[Region, int, int]


def grid_of(width: int, height: int, side: int, step: int, keep: Iterable[int] | None = None, mpp: float = 0.5) -> Grid:
    """Tiles over a slide of 0.5 um/px, of which some may be left out."""
    frame = Frame(width, height, 0.5, mpp)
    h, w = frame.shape
    corners = [(x, y) for y in range(0, max(h - side, 0) + step, step) for x in range(0, max(w - side, 0) + step, step)]
    chosen = corners if keep is None else [corners[i % len(corners)] for i in sorted(set(keep))]
    chosen = sorted(set(chosen), key=lambda corner: (corner[1], corner[0]))
    return Grid(frame, np.array(chosen, np.int64).reshape(-1, 2), side, step)


# --- reading ----------------------------------------------------------------------------------------------------------


class Places:
    """A slide whose pixels say where they lie; places named as bad cannot be read."""

    def __init__(self, bad: Sequence[tuple[int, int]] = (), code: Exit = Exit.INPUT) -> None:
        self.bad, self.code = bad, code
        self.asked: list[Request] = []

    def read_as(self, region: Region, width: int, height: int) -> NDArray[np.uint8]:
        self.asked.append((region, width, height))
        for x, y in self.bad:
            if region.x <= x < region.x + region.w and region.y <= y < region.y + region.h:
                raise HistillError(f"bad at {x}, {y}", code=self.code, subject="slide.svs")
        columns = region.x + np.arange(width) * region.w // width
        rows = region.y + np.arange(height) * region.h // height
        return np.dstack(np.broadcast_arrays(columns[None] % 251, rows[:, None] % 241, 7)).astype(np.uint8)

    def read_many(self, requests: Iterable[Request]) -> Iterator[NDArray[np.uint8] | HistillError]:
        for request in requests:
            try:
                yield self.read_as(*request)
            except HistillError as error:
                yield error


def tiles_of(slide: Places, grid: Grid, most: int = 0) -> tuple[dict[int, NDArray[np.uint8]], Unreadable]:
    unreadable = Unreadable(most)
    found: Any = read_tiles(slide, grid, unreadable)  # type: ignore[arg-type]
    numbered = list(found)
    assert [number for number, _ in numbered] == sorted(number for number, _ in numbered)
    return dict(numbered), unreadable


@pytest.mark.parametrize(("side", "step"), [(64, 48), (64, 64), (64, 17), (3000, 2000)])
@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_tiles_are_those_of_reading_one_by_one(side: int, step: int, mpp: float) -> None:
    grid = grid_of(5000, 400, side, step, mpp=mpp)
    slide = Places()
    found, _ = tiles_of(slide, grid)
    assert len(found) == len(grid)
    for number, image in found.items():
        assert np.array_equal(image, Places().read_as(grid.region(number), side, side))
    for region, width, height in slide.asked:
        assert width <= max(LONGEST_READ, side)
        assert (region.w, region.h) == (width * mpp / 0.5, height * mpp / 0.5)
    # What neighbours share is read once, but for where strips are cut.
    across = sum(width for _, width, _ in slide.asked)
    rows = len(set(grid.corners[:, 1].tolist()))
    assert across <= rows * (grid.frame.shape[1] + side) + (len(slide.asked) - rows) * side


def test_gaps_are_not_read() -> None:
    grid = grid_of(4000, 64, 64, 64, keep=[0, 1, 20, 21, 22, 50])
    slide = Places()
    tiles_of(slide, grid)
    assert [(region.x, width) for region, width, _ in slide.asked] == [(0, 128), (1280, 192), (3200, 64)]


def test_a_bad_place_costs_the_tiles_it_lies_in_and_no_other() -> None:
    grid = grid_of(1000, 200, 64, 48)
    found, unreadable = tiles_of(Places([(300, 100)]), grid, most=4)
    expected = [
        i for i, (x, y) in enumerate(grid.corners.tolist()) if x <= 300 < x + 64 and y <= 100 < y + 64
    ]  # fmt: skip
    assert unreadable.tiles == expected
    assert unreadable.why == "bad at 300, 100"
    assert sorted([*found, *expected]) == list(range(len(grid)))
    for number, image in found.items():
        assert np.array_equal(image, Places().read_as(grid.region(number), 64, 64))


def test_one_bad_tile_too_many() -> None:
    bad = [(10, 10), (500, 10), (10, 150)]
    grid = grid_of(1000, 200, 64, 64)
    assert len(tiles_of(Places(bad), grid, most=3)[1].tiles) == 3
    with pytest.raises(HistillError) as caught:
        tiles_of(Places(bad), grid, most=2)
    assert caught.value.code == Exit.INPUT
    assert caught.value.subject == "slide.svs"
    assert "3 tiles cannot be read" in caught.value.what
    assert "bad at 10, 10" in caught.value.what
    assert "--most-unreadable" in caught.value.mend


@pytest.mark.parametrize("code", [Exit.TEMPORARY, Exit.UNSAFE])
def test_an_error_of_another_kind_is_not_the_tiles(code: Exit) -> None:
    with pytest.raises(HistillError) as caught:
        tiles_of(Places([(10, 10)], code), grid_of(1000, 200, 64, 64), most=100)
    assert caught.value.code == code


# --- the network ------------------------------------------------------------------------------------------------------


class Mean:
    """A network whose answer for a tile rests on the whole batch, which it must not see."""

    classes = Classes(("a", "b", "c"))
    reach = 0

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.sums: list[float] = []

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        self.sizes.append(tuple(batch.images.shape))
        self.sums.append(float(batch.images.sum()))
        return batch.images * 2

    def finish(self, maps: Tensor) -> Tensor:
        return maps


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_batches_are_of_one_size_and_filled_up_with_white(count: int) -> None:
    images = [np.full((32, 32, 3), number, np.uint8) for number in range(count)]
    network: Any = Mean()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    tiles = [(10 + number, image) for number, image in enumerate(images)]
    batches = list(segment_tiles(iter(tiles), network, fabric, 32, 4))
    assert [number for batch in batches for number in batch.tiles] == [number for number, _ in tiles]
    assert [size[0] for size in network.sizes] == [4] * -(-count // 4)
    if count % 4:
        there, white = images[count - count % 4 :], 4 - count % 4
        assert network.sums[-1] == pytest.approx(sum(float(image.sum()) for image in there) / 255 + white * 32 * 32 * 3)
    for batch in batches:
        assert batch.maps.shape == (len(batch.tiles), 3, 32, 32)
        assert batch.maps.dtype == np.float32
        for number, maps in zip(batch.tiles, batch.maps, strict=True):
            assert maps == pytest.approx(np.full((3, 32, 32), 2 * (number - 10) / 255), abs=1e-6)


# --- the map ----------------------------------------------------------------------------------------------------------


def tissue_of(mask: NDArray[np.bool_], frame: Frame) -> Tissue:
    scale = frame.width / mask.shape[1], frame.height / mask.shape[0]
    return Tissue(mask, scale, "", "bright field", 0.1, (243, 243, 243), np.zeros(mask.shape, np.uint8))


def slow_map(
    grid: Grid, maps: dict[int, NDArray[np.float32]], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Labels, probabilities, and how sure the label is: each pixel the weighted mean over its tiles, in float64."""
    h, w = grid.frame.shape
    k = 3
    window = blend_window(grid.side, grid.step)
    sums, weights = np.zeros((k, h, w)), np.zeros((h, w))
    for number, each in maps.items():
        left, top = grid.corners[number].tolist()
        for y in range(top, min(top + grid.side, h)):
            for x in range(left, min(left + grid.side, w)):
                weight = float(window[y - top, x - left])
                sums[:, y, x] += each[:, y - top, x - left].astype(np.float64) * weight
                weights[y, x] += weight
    there = (weights > 0) & wanted
    blended = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
    ordered = np.sort(blended, axis=0)
    labels = np.where(there, blended.argmax(0), IGNORE).astype(np.uint8)
    return labels, blended * there, ordered[-1] - ordered[-2]


def joined(bands: Iterable[DecidedBand], shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Bands in one piece: they come from top to bottom, without gap or overlap, over the whole width."""
    labels, kept, row = [], [], 0
    for band in bands:
        assert band.top == row
        assert band.labels.shape[1] == shape[1]
        row += len(band.labels)
        labels.append(band.labels)
        if band.probabilities is not None:
            assert band.probabilities.shape == (3, *band.labels.shape)
            kept.append(band.probabilities)
    assert row == shape[0]
    return np.concatenate(labels), np.concatenate(kept, axis=1) if kept else None


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([(16, 16), (16, 12), (16, 8), (16, 5), (9, 1)]),
    st.sampled_from([0.5, 0.8, 0.3]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=30)
def test_the_map_is_that_of_a_slow_version(
    width: int, height: int, tiling: tuple[int, int], mpp: float, seed: int, probabilities: bool
) -> None:
    """Any tiles may be missing, at the top, at the end, whole rows; and regions cut the map to the pixel."""
    random = np.random.default_rng(seed)
    side, step = tiling
    grid = grid_of(width, height, side, step, random.integers(0, 500, random.integers(1, 30)).tolist(), mpp)
    h, w = grid.frame.shape
    mask = random.random((7, 9)) < 0.7
    tissue = tissue_of(mask, grid.frame)
    boxes = [shapely.box(*np.sort(random.uniform(0, [width, height], (2, 2)), axis=0).ravel()) for _ in range(2)]
    boxes = [each for each in boxes if each.area > 0]
    raster = OutlineRaster([Outline(each) for each in boxes], [1, 0][: len(boxes)], grid.frame, beyond=1)
    regions = raster if random.random() < 0.5 and boxes else None
    readable = [number for number in range(len(grid)) if random.random() < 0.8]
    maps = {
        number: random.dirichlet([1, 1, 1], (side, side)).transpose(2, 0, 1).astype(np.float32) for number in readable
    }

    wanted, sound = np.zeros((h, w), bool), np.ones((h, w), bool)
    for y in range(h):
        for x in range(w):
            at_y, at_x = (y + 0.5) * grid.frame.scale * 7 / height, (x + 0.5) * grid.frame.scale * 9 / width
            wanted[y, x] = at_y < 7 and at_x < 9 and mask[int(at_y), int(at_x)]
            # Right on the border of two pixels of the coarse map the last bit of a division decides.
            sound[y, x] = all(abs(each - round(each)) > 1e-9 for each in (at_y, at_x))
    if regions is not None:
        wanted &= np.concatenate(list(raster)) > 0
    labels, blended, sure = slow_map(grid, maps, wanted)

    batches = [
        TileMaps(tuple(readable[i : i + 4]), np.stack([maps[number] for number in readable[i : i + 4]]))
        for i in range(0, len(readable), 4)
    ]
    method: Any = Mean()
    bands = decided_bands(iter(batches), grid, Wanted(grid.frame, tissue, regions), method, probabilities=probabilities)
    found, kept = joined(bands, (h, w))
    assert np.array_equal(found[sound] == IGNORE, labels[sound] == IGNORE)
    clear = sound & ((sure > 1e-5) | (labels == IGNORE))
    assert np.array_equal(found[clear], labels[clear])
    if probabilities and len(grid):
        assert kept is not None
        assert np.abs(kept - blended * 255)[:, sound].max(initial=0) <= 0.5 + 1e-3
        assert (kept[:, found == IGNORE] == 0).all()
    else:
        assert kept is None


def test_no_tile_at_all_is_a_map_of_nothing() -> None:
    grid = grid_of(100, 80, 16, 12, keep=[])
    method: Any = Mean()
    wanted = Wanted(grid.frame, tissue_of(np.ones((4, 4), bool), grid.frame))
    bands = decided_bands(iter([]), grid, wanted, method, probabilities=True)
    found, kept = joined(bands, (80, 100))
    assert (found == IGNORE).all()
    assert kept is not None
    assert not kept.any()


def test_what_decides_sees_the_blended_map(tmp_path: Path) -> None:
    """A method that ends with a smaller number of classes than it blends maps."""

    def finish(maps: Tensor) -> Tensor:
        assert maps.shape[:2] == (1, 5)
        return torch.softmax(maps[:, :3], dim=1)

    grid = grid_of(40, 30, 16, 12)
    method: Any = SimpleNamespace(classes=Classes(("a", "b", "c")), finish=finish, reach=0)
    maps = np.random.default_rng(0).normal(size=(len(grid), 5, 16, 16)).astype(np.float32)
    batch = TileMaps(tuple(range(len(grid))), maps)
    wanted = Wanted(grid.frame, tissue_of(np.ones((4, 4), bool), grid.frame))
    found, kept = joined(decided_bands(iter([batch]), grid, wanted, method, probabilities=True), (30, 40))
    labels, _, sure = slow_map(grid, {i: each[:3] for i, each in enumerate(maps)}, np.ones((30, 40), bool))
    assert np.array_equal(found[sure > 1e-5], labels[sure > 1e-5])
    assert kept is not None
    assert np.abs(kept.astype(int).sum(0) - 255).max() <= 2


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([(16, 16), (16, 8), (9, 1)]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
)
@settings(max_examples=40)
def test_what_looks_beyond_a_pixel_decides_as_on_the_undivided_map(
    width: int, height: int, tiling: tuple[int, int], seed: int, reach: int
) -> None:
    """Sums over a square of the blended map: of pieces with margins what they are of the whole, wherever tiles lack."""

    def spread(maps: Tensor) -> Tensor:
        side = 2 * reach + 1
        return torch.nn.functional.avg_pool2d(maps.double(), side, 1, reach, divisor_override=1).float()

    random = np.random.default_rng(seed)
    side, step = tiling
    grid = grid_of(width, height, side, step, random.integers(0, 500, random.integers(1, 12)).tolist())
    maps = random.random((len(grid), 3, side, side)).astype(np.float32)
    batch = TileMaps(tuple(range(len(grid))), maps)
    wanted = Wanted(grid.frame, tissue_of(np.ones((4, 4), bool), grid.frame))

    def decided(finish: Any, margin: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        method: Any = SimpleNamespace(classes=Classes(("a", "b", "c")), finish=finish, reach=margin)
        found, kept = joined(decided_bands(iter([batch]), grid, wanted, method, probabilities=True), (height, width))
        assert kept is not None
        return found, kept

    whole: list[Tensor] = []

    def keep(piece: Tensor) -> Tensor:
        whole.append(piece)
        return piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histill.engine.stitching.DECIDED_AT_ONCE", 13)
        found, _ = decided(spread, reach)
    # With a reach of the map's own size there is one piece: the whole map, from the first tile's row to the last's.
    blended, _ = decided(keep, max(height, width))
    top = int(grid.corners[0, 1])
    assert max(piece.shape[2] for piece in whole) == min(height, int(grid.corners[-1, 1]) + side) - top
    sums = spread(max(whole, key=lambda piece: piece.shape[2] * piece.shape[3]))[0].numpy()
    left = int(grid.corners[:, 0].min())
    expected = sums.argmax(0)
    ordered = np.sort(sums, axis=0)
    clear = (ordered[-1] - ordered[-2]) > 1e-3
    place = found[top : top + expected.shape[0], left : left + expected.shape[1]]
    assert np.array_equal(place == IGNORE, blended[top:, left:][: place.shape[0], : place.shape[1]] == IGNORE)
    clear &= place != IGNORE
    assert np.array_equal(place[clear], expected[clear])
