"""Flat images as slides of one level."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from files import failure, outcome, tissue

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides import flat
from histill.slides.flat import FlatSlide
from histill.slides.open import open_slide

RGB = tissue(70, 50)
GREY = RGB[..., 0]


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    with open_slide(path, 0.5) as slide:
        assert isinstance(slide, FlatSlide)
        assert slide.facts.vendor == "flat"
        assert [level.downsample for level in slide.facts.levels] == [1.0]
        whole = slide.read(Region(0, 0, *slide.size), 0.5)
        assert (slide.read(Region(3, 2, 9, 8), 0.5) == whole[2:10, 3:12]).all()
        return whole


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        *(("a.tif", {"compression": each}) for each in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")),
        ("a.svs", {"format": "PNG"}),
        ("a.png", {"format": "TIFF"}),
    ],
)
def test_what_is_stored_is_read(name: str, options: dict[str, str], tmp_path: Path) -> None:
    for array in (RGB, GREY):
        expected = array if array.ndim == 3 else np.repeat(array[..., None], 3, 2)
        np.testing.assert_array_equal(read(save(tmp_path / name, array, **options)), expected)


def test_a_jpeg_is_near(tmp_path: Path) -> None:
    assert np.abs(read(save(tmp_path / "a.jpg", RGB, quality=95)).astype(int) - RGB).mean() < 3
    assert np.abs(read(save(tmp_path / "a.tif", RGB, compression="jpeg")).astype(int) - RGB).mean() < 6


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 32)},
        {"planarconfig": "separate"},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    ],
)
def test_kinds_of_tiff(options: dict[str, object], tmp_path: Path) -> None:
    planes = RGB.transpose(2, 0, 1) if "planarconfig" in options else RGB
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", metadata=None, **options)
    np.testing.assert_array_equal(outcome(tmp_path / "a.tif"), RGB)


def test_black_may_be_the_highest_value(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], 255 - GREY)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_one_bit_and_palette(name: str, tmp_path: Path) -> None:
    bits = GREY > 170
    np.testing.assert_array_equal(read(save(tmp_path / name, bits))[..., 1], bits * np.uint8(255))
    indexed = Image.fromarray(bits.astype(np.uint8), mode="P")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.array([[10, 20, 30], [40, 50, 60]])[bits.astype(int)])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_alpha_is_laid_on_white(name: str, tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    rgba[:10, :, 3], rgba[10:20, :, 3] = 0, 128
    whole = read(save(tmp_path / name, rgba))
    assert (whole[:10] == 255).all()
    assert np.abs(whole[10:20] - (RGB[10:20] * (128 / 255) + 127)).max() <= 0.5
    np.testing.assert_array_equal(whole[20:], RGB[20:])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, RGB, exif=exif, **({"quality": 98, "subsampling": 0} if name == "a.jpg" else {}))
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1)}
    turned |= {6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB)}
    whole = read(path)
    assert whole.shape == turned[orientation].shape
    assert np.abs(whole.astype(int) - turned[orientation]).max() <= (12 if name == "a.jpg" else 0)
    if name != "a.tif":
        assert any("turned" in note for note in open_slide(path).facts.notes) == (orientation > 1)


def test_it_is_decoded_once_and_only_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    decode = FlatSlide._decoded
    monkeypatch.setattr(FlatSlide, "_decoded", lambda slide: (decoded.append(slide.path), decode(slide))[1])
    with open_slide(save(tmp_path / "a.png", RGB), 0.5) as slide:
        assert slide.size == (70, 50)
        assert decoded == []
        part = slide.read(Region(0, 0, 8, 8), 0.5)
        part[:] = 0
        assert (slide.read(Region(0, 0, 8, 8), 0.5) == RGB[:8, :8]).all(), "the caller's copy is the slide's own"
        slide.thumbnail(20)
        assert len(decoded) == 1


def test_bands_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "_BAND", 7)
    for array in (RGB, GREY, np.dstack([RGB, GREY])):
        whole = read(save(tmp_path / "a.png", array))
        expected = array if array.ndim == 2 else array[..., :3] * (array[..., 3:] / 255 if array.shape[2] == 4 else 1)
        expected = expected + (255.0 - array[..., 3:] if array.ndim == 3 and array.shape[2] == 4 else 0)
        assert np.abs(whole - (expected if array.ndim == 3 else expected[..., None])).max() <= 0.5


# --- what is refused --------------------------------------------------------------------------------------------------


def png(width: int, height: int, depth: int, colour: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(15_000, 10_001), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_what_would_take_too_much_memory_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(*size, 8, 2))
    error = failure(tmp_path / "a.png")
    assert (error.code, "150 million pixels" in error.what) == (Exit.UNSAFE, True)
    assert "tiled TIFF" in error.mend


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_16_bits_are_refused(colour: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(2, 2, 16, colour))
    assert "16 or more bits" in failure(tmp_path / "a.png").what


def test_several_images_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(RGB), Image.fromarray(RGB[:20])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "2 images that are not levels" in failure(tmp_path / "a.tif").what


def test_a_smaller_copy_beside_it_is_no_harm(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_cut_off_at_many_lengths_or_filled_up_with_zeros(name: str, tmp_path: Path) -> None:
    data = save(tmp_path / name, RGB).read_bytes()
    whole = outcome(tmp_path / name)
    for length in range(0, len(data), max(1, len(data) // 40)):
        for filled in (b"", bytes(len(data) - length)):
            (tmp_path / name).write_bytes(data[:length] + filled)
            result = outcome(tmp_path / name)
            # Raw pixels that are lost and filled up with zeros are black, which no reader can tell from black.
            raw = name in ("a.bmp", "a.tif") and filled
            assert isinstance(result, HistillError) or raw or np.array_equal(result, whole), (length, len(filled))
            assert isinstance(result, HistillError) or raw or length > len(data) - 20, (length, len(filled))


def test_a_file_that_changes_before_it_is_decoded(tmp_path: Path) -> None:
    with open_slide(save(tmp_path / "a.png", RGB), 0.5) as slide:
        save(tmp_path / "a.png", RGB[:20])
        with pytest.raises(HistillError, match="changed while it was read"):
            slide.thumbnail(10)
        (tmp_path / "a.png").unlink()
        with pytest.raises(HistillError) as caught:
            slide.thumbnail(10)
        assert caught.value.code == Exit.INPUT
