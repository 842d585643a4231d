"""What is refused before a decoder sees it, and what is let through because it is legal."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))

from files import Image, bare_tiff, failure, outcome, poke, shrunk, tissue, write_pyramid

from histill.core.errors import Exit, HistillError
from histill.slides import header
from histill.slides.header import check_header
from histill.slides.open import open_slide

PIXELS = tissue(150, 130)
WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, TILE_WIDTH, OFFSETS, COUNTS = 256, 257, 258, 262, 277, 322, 324, 325
Tags = dict[int, Sequence[int]]


def tiled_tags(width: int, height: int, tile: int) -> Tags:
    """The tags of a tiled image of which one tile, at byte 8, is stored."""
    entries = math.ceil(width / tile) * math.ceil(height / tile)
    tags: Tags = {WIDTH: [width], HEIGHT: [height], BITS: [8], 259: [1], PHOTOMETRIC: [2], SAMPLES: [3]}
    tags |= {TILE_WIDTH: [tile], 323: [tile], OFFSETS: [8] + [0] * (entries - 1), COUNTS: [64] + [0] * (entries - 1)}
    return tags


# --- files that are no files of pixels --------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "plain").write_text("no folder")
    os.mkfifo(tmp_path / "pipe.svs")
    said = {
        "missing.svs": "no such file",
        "plain/a.svs": "no such file",
        "nul\0l.svs": "cannot be read",
        "a" * 300: "cannot be read",
        ".": "a folder",
        "pipe.svs": "not a plain file",
        "empty.svs": "an empty file",
    }
    for name, what in said.items():
        error = failure(tmp_path / name)
        assert what in error.what
        assert error.code == Exit.INPUT


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_pyramid(tmp_path / "a.svs", [PIXELS])
    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in failure(path).what


@pytest.mark.parametrize("content", [b"II", b"II*\0", b"II*\0\x08", b"MM\0*\0\0\0\x08", b"II*\0\0\0\0\0", b"\0" * 100])
def test_hardly_a_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(content)
    assert failure(tmp_path / "a.svs").code == Exit.INPUT


# --- bombs ------------------------------------------------------------------------------------------------------------


def refused(path: Path, code: Exit, what: str) -> None:
    error = failure(path)
    assert (error.code, what in error.what) == (code, True), error


def test_numbers_that_no_slide_has(tmp_path: Path) -> None:
    sparse = bare_tiff(tmp_path / "sparse.tif", tiled_tags(400_000, 400_000, 4096), big=True)
    refused(sparse, Exit.UNSAFE, "400000 x 400000 pixels")
    # As large as the file may be: a hole in it, which takes no disk.
    hole = bare_tiff(tmp_path / "hole.tif", tiled_tags(400_000, 400_000, 4096), big=True, extra=1 << 36)
    refused(hole, Exit.UNSAFE, "400000 x 400000 pixels")
    huge = bare_tiff(tmp_path / "huge.tif", {**tiled_tags(150, 130, 64), WIDTH: [2**32 - 1], HEIGHT: [2**32 - 1]})
    refused(huge, Exit.UNSAFE, "more than any slide has")
    tile = bare_tiff(tmp_path / "tile.tif", tiled_tags(16, 16, 32_768))
    refused(tile, Exit.UNSAFE, "tiles of 32768 x 32768")
    ratio = bare_tiff(tmp_path / "ratio.tif", tiled_tags(60_000, 60_000, 4096))
    refused(ratio, Exit.UNSAFE, "60000 x 60000 pixels in")
    count = bare_tiff(tmp_path / "count.tif", {**tiled_tags(16, 16, 16), COUNTS: [5 << 20]}, extra=6 << 20)
    refused(count, Exit.UNSAFE, "bytes for a tile of 16 x 16")
    loop = bare_tiff(tmp_path / "loop.tif", tiled_tags(16, 16, 16), last=8)
    refused(loop, Exit.UNSAFE, "no end")


def test_tables_that_no_file_has_room_for(tmp_path: Path) -> None:
    for big, length in ((False, 2**32 - 1), (True, 2**63)):
        path = bare_tiff(tmp_path / f"{big}.tif", tiled_tags(150, 130, 64), big=big)
        data = bytearray(path.read_bytes())
        room = 8 if big else 4
        # The count of the last tag, which is that of the tiles' bytes, and then how many tags there are.
        place = (24 if big else 10) + 9 * (4 + 2 * room) + 4
        data[place : place + room] = length.to_bytes(room, "little")
        path.write_bytes(data)
        refused(path, Exit.UNSAFE, "tables of")
        first = 16 if big else 8
        data[first : first + 2] = b"\xff\xff"
        path.write_bytes(data)
        refused(path, Exit.INPUT, "65535 tags")


def test_many_directories_that_share_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bare_tiff(tmp_path / "a.tif", *[tiled_tags(150, 130, 16)] * 4)
    assert len(check_header(path)) == 4
    monkeypatch.setattr(header, "MOST_TABLE_BYTES", 1600)
    refused(path, Exit.UNSAFE, "tables of")


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from files import failure
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name in sys.argv[2:]:
    print(int(failure(Path(name)).code))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux")
def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    bombs = [
        bare_tiff(tmp_path / "a.tif", tiled_tags(400_000, 400_000, 4096), big=True, extra=1 << 36),
        poke(poke(write_pyramid(tmp_path / "b.tif", [PIXELS]), TILE_WIDTH, 32_768), 323, 32_768),
        bare_tiff(tmp_path / "c.tif", {WIDTH: [60_000], HEIGHT: [60_000], BITS: [8], 273: [8], 279: [8]}),
    ]
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), *map(str, bombs)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["5", "5", "5"], run.stderr


# --- what is legal ----------------------------------------------------------------------------------------------------


def test_white_takes_next_to_no_bytes_and_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "FREE_PIXELS", 1000)
    white = np.full((2000, 2000, 3), 255, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [white, white[::4, ::4]], tile=256)
    assert path.stat().st_size < white.nbytes / 400
    read = outcome(path)
    assert isinstance(read, np.ndarray)
    assert (read == 255).all()


def test_tiles_that_are_not_stored_are_white_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "FREE_PIXELS", 1000)
    path = write_pyramid(tmp_path / "a.tif", [PIXELS])
    for index in (1, 5):
        poke(poke(path, OFFSETS, 0, index), COUNTS, 0, index)
    with open_slide(path) as slide:
        assert slide.facts.notes == ("2 of 9 tiles of its largest level are not stored: white",)
        read = slide.thumbnail(150)
    expected = PIXELS.copy()
    expected[:64, 64:128] = expected[64:128, 128:] = 255
    np.testing.assert_array_equal(read, expected)
    for index in range(9):
        poke(path, COUNTS, 0, index)
    refused(path, Exit.INPUT, "none of its pixels are stored")


def test_a_slide_with_nothing_but_a_tile_is_small_and_let_through(tmp_path: Path) -> None:
    path = bare_tiff(tmp_path / "a.tif", tiled_tags(40_000, 40_000, 256), big=True)
    assert path.stat().st_size < 1 << 19
    (image,) = check_header(path)
    assert (image.missing, image.tiled, image.size) == (157 * 157 - 1, True, (40_000, 40_000))


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big-endian"])
def test_what_is_read_of_a_header(big: bool, order: str, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big, byteorder=order) as file:
        options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "zlib"}
        file.write(PIXELS, description="words", resolution=(3, 7), resolutionunit="CENTIMETER", **options)
        file.write(shrunk(PIXELS, 75, 65), subfiletype=1, **options)
        file.write(PIXELS[..., 0], photometric="minisblack", metadata=None)
    images = check_header(tmp_path / "a.tif")
    assert [image.size for image in images] == [(150, 130), (75, 65), (150, 130)]
    assert [image.tiled for image in images] == [True, True, False]
    assert [image.reduced for image in images] == [False, True, False]
    assert [image.missing for image in images] == [0, 0, 0]
    assert [image.channels for image in images] == [0, 0, 0]
    assert images[0].description == "words"
    assert images[0].resolution == (3, 7)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for image, page in zip(images, file.pages, strict=True):
            begins, lengths = image.stored
            assert (tuple(begins), tuple(lengths)) == (page.dataoffsets, page.databytecounts)


def test_a_ratio_by_zero_is_no_number(tmp_path: Path) -> None:
    (image,) = check_header(bare_tiff(tmp_path / "a.tif", {**tiled_tags(16, 16, 16), 282: [0]}))
    assert image.resolution == pytest.approx((0, math.nan), nan_ok=True)


def test_other_files_are_not_its_business(tmp_path: Path) -> None:
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(20), b"MMXX", b"II", b"some text that is longer than a header"):
        (tmp_path / "a.svs").write_bytes(content)
        assert check_header(tmp_path / "a.svs") == ()


def test_beyond_4_gib_a_classic_tiff_is_hamamatsus_and_left_to_openslide(tmp_path: Path) -> None:
    path = bare_tiff(tmp_path / "a.ndpi", tiled_tags(16, 16, 32_768), extra=1 << 32)
    assert check_header(path) == ()
    # Its own numbers are checked all the same.
    refused(path, Exit.UNSAFE, "tiles of 32768 x 32768")


# --- what would be read wrongly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiled", [True, False], ids=["openslide", "flat"])
@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (PIXELS.astype(np.uint16) * 257, {}, "16 or more bits"),
        (PIXELS[..., 0].astype(np.uint16) * 257, {"photometric": "minisblack"}, "16 or more bits"),
        (PIXELS[..., 0].astype(np.float32), {"photometric": "minisblack"}, "16 or more bits"),
        (np.dstack([PIXELS, PIXELS[..., :2]]), {}, "5 channels"),
        (PIXELS, {"photometric": "minisblack", "planarconfig": "contig"}, "3 channels"),
        (PIXELS.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}, "3 channels"),
    ],
)
def test_16_bits_and_channels_are_refused(
    pixels: Image, options: dict[str, str], said: str, tiled: bool, tmp_path: Path
) -> None:
    tile = {"tile": (64, 64)} if tiled else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{"photometric": "rgb", "metadata": None, **tile, **options})
    refused(tmp_path / "a.tif", Exit.INPUT, said)


@pytest.mark.parametrize("tiled", [True, False], ids=["openslide", "flat"])
def test_planes_and_channels_as_images_are_refused(tiled: bool, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for channel in range(3):
            options = {"tile": (64, 64)} if tiled else {}
            file.write(PIXELS[..., channel], photometric="minisblack", metadata=None, **options)
    refused(tmp_path / "a.tif", Exit.INPUT, "3 images that are not levels")


# --- cut off and damaged ----------------------------------------------------------------------------------------------


def strips(path: Path) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None, compression="zlib", rowsperstrip=16)
    return path


def whole_pyramid(path: Path) -> Path:
    return write_pyramid(path, [PIXELS, shrunk(PIXELS, 75, 65), shrunk(PIXELS, 18, 16)])


@pytest.mark.parametrize("write", [whole_pyramid, strips])
def test_cut_off_at_many_lengths(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = write(tmp_path / "whole.tif").read_bytes()
    path = tmp_path / "a.tif"
    for length in {*range(0, len(data), len(data) // 60), *range(30), len(data) - 1}:
        path.write_bytes(data[:length])
        result = outcome(path)
        # What lies behind the last byte that is needed may be missing: padding.
        assert isinstance(result, HistillError) or np.array_equal(result, PIXELS), length
        assert isinstance(result, HistillError) or length == len(data) - 1, length


def test_pixels_beyond_the_end_are_seen_before_they_are_read(tmp_path: Path) -> None:
    data = whole_pyramid(tmp_path / "whole.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-100])
    with pytest.raises(
        HistillError, match=f"cut off: its pixels reach byte .*, and it has {len(data) - 100}"
    ) as caught:
        check_header(tmp_path / "a.tif")
    assert caught.value.code == Exit.INPUT
    # Each beyond the end by itself, and both together, which run over 64 bits.
    for begin, length in ((2**40, 64), (8, 2**40), (2**63, 2**63 + 8)):
        tags = {**tiled_tags(16, 16, 16), OFFSETS: [begin], COUNTS: [length]}
        refused(bare_tiff(tmp_path / "a.tif", tags, big=True), Exit.INPUT, "cut off: its pixels reach")


def test_a_real_slide_cut_off_at_many_lengths(data_root: Path, tmp_path: Path) -> None:
    names = ("CMU-1-Small-Region.svs", "hamamatsu_dapi.ndpi", "TCGA-CR-7395-01A-01-TS1.svs", "dicom_sm_image.dcm")
    for name in names:
        data = (data_root / "slides" / name).read_bytes()
        path = tmp_path / name
        for part in range(40):
            path.write_bytes(data[: len(data) * part // 40])
            assert failure(path).code == Exit.INPUT


@pytest.mark.parametrize("write", [whole_pyramid, strips])
def test_damaged_at_random(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = write(tmp_path / "whole.tif").read_bytes()
    path = tmp_path / "a.tif"
    random = np.random.default_rng(0)
    failed = 0
    for turn in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        near = random.integers(0, 400 if turn % 2 else len(data), random.integers(1, 6))
        damaged[near] = random.choice([0, 1, 127, 128, 255], len(near))
        path.write_bytes(damaged.tobytes())
        failed += isinstance(outcome(path), HistillError)
    assert failed > 30
