"""Images and masks: read whole and as they are, or refused."""

import pickle
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample
from histill.data import images
from histill.data.images import ImageCache, check_files, image_size, read_image, read_mask

CARD = DatasetCard(classes=("gland", "stroma"), mask_values={"255": "gland", "0": "stroma", "3": "ignore"})
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def save(folder: Path, array: np.ndarray, name: str = "a.png", **options: object) -> Path:
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def failing(path: Path, code: Exit, crop: Region | None = None) -> str:
    with pytest.raises(HistillError) as caught:
        read_image(path, crop)
    assert caught.value.code == code
    assert caught.value.subject == str(path)
    assert caught.value.mend
    return caught.value.what


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
def test_lossless_formats(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, RGB, name, **({"lossless": True} if name == "a.webp" else {}))
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)
    assert image_size(path) == (5, 7)


def test_jpeg_is_near(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 150), np.uint8)
    assert np.abs(read_image(save(tmp_path, flat, "a.jpg", quality=95)).astype(int) - flat).max() <= 2


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path, RGB).rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(path), RGB)


def test_a_crop_is_the_part_of_the_whole(tmp_path: Path) -> None:
    path = save(tmp_path, RGB)
    np.testing.assert_array_equal(read_image(path, Region(2, 1, 4, 3)), RGB[1:4, 2:6])
    np.testing.assert_array_equal(read_image(path, Region(0, 0, 7, 5)), RGB)
    for crop in (Region(4, 0, 4, 1), Region(0, 3, 1, 3), Region(-1, 0, 2, 2)):
        assert "leaves the image of 7 x 5" in failing(path, Exit.USAGE, crop)


def test_grey_one_bit_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = RGB[:, :, 0]
    np.testing.assert_array_equal(read_image(save(tmp_path, grey)), np.repeat(grey[:, :, None], 3, 2))
    bits = grey > 127
    np.testing.assert_array_equal(read_image(save(tmp_path, bits)), np.repeat(bits[:, :, None], 3, 2) * np.uint8(255))
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").min() > 250


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((5, 7), 255, np.uint8)])
    rgba[0, 0] = 0, 0, 0, 0
    rgba[0, 1] = 0, 0, 0, 128
    read = read_image(save(tmp_path, rgba))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[0, 1].tolist() == [127, 127, 127]
    np.testing.assert_array_equal(read[1:], RGB[1:])
    grey = np.array([[[0, 0], [7, 255]]], np.uint8)
    assert read_image(save(tmp_path, grey)).tolist() == [[[255] * 3, [7] * 3]]
    Image.fromarray(np.array([[0, 1]], np.uint8), mode="P").save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, RGB, f"oriented{suffix}", exif=exif)
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1)}
    turned |= {6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB)}
    np.testing.assert_array_equal(read_image(path), turned[orientation])
    assert image_size(path) == turned[orientation].shape[:2]


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused_in_png(colour: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 16, colour, b"\0" + bytes(range(4 * channels))))
    assert "16 or more bits" in failing(path, Exit.INPUT)
    path.write_bytes(png(2, 1, 8, colour, b"\0" + bytes(range(2 * channels))))
    assert read_image(path).shape == (1, 2, 3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_in_tiff(dtype: type, tmp_path: Path) -> None:
    assert "16 or more bits" in failing(save(tmp_path, RGB[:, :, 0].astype(dtype), "a.tif"), Exit.INPUT)


def test_16_bit_colour_is_refused_in_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.uint16) * 257)
    assert "16 or more bits" in failing(tmp_path / "a.tif", Exit.INPUT)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (100_000, 100_000), (11_000, 11_000)])
def test_a_bomb_is_refused_by_its_header_alone(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(width, height, 8, 2, b"\0" * 1000))
    for read in (read_image, image_size):
        with pytest.raises(HistillError, match="decompression bomb") as caught:
            read(path)
        assert caught.value.code == Exit.UNSAFE


def test_an_image_just_small_enough_is_read_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    monkeypatch.setattr(images, "MOST_PIXELS", 35)
    with warnings.catch_warnings(action="error"):
        read_image(path)
    monkeypatch.setattr(images, "MOST_PIXELS", 34)
    assert "decompression bomb" in failing(path, Exit.UNSAFE)


def test_files_that_are_missing_empty_or_no_images(tmp_path: Path) -> None:
    assert failing(tmp_path / "none.png", Exit.INPUT) == "there is no such file"
    for name, data, message in (
        ("empty.png", b"", "an empty file"),
        ("text.png", b"not an image", "not an image"),
        ("page.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ):
        (tmp_path / name).write_bytes(data)
        assert failing(tmp_path / name, Exit.INPUT).startswith(message)
    assert failing(tmp_path, Exit.INPUT).startswith("cannot be decoded")
    Image.fromarray(RGB).save(tmp_path / "a.gif")
    assert failing(tmp_path / "a.gif", Exit.INPUT).startswith("not an image (PNG, JPEG, TIFF, BMP, WEBP)")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_truncated_anywhere_is_refused_or_whole(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    path = save(tmp_path, noise, name)
    whole, data = read_image(path), path.read_bytes()
    codes = []
    for end in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:end])
        try:
            # What follows the pixels may be lacking; the pixels may not.
            np.testing.assert_array_equal(read_image(path), whole)
        except HistillError as error:
            codes.append(error.code)
    assert len(codes) > 40
    assert set(codes) == {Exit.INPUT}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_damage_is_our_error_or_none(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, RGB, name)
    data = path.read_bytes()
    random, codes = np.random.default_rng(2), set()
    for _ in range(150):
        damaged = bytearray(data)
        damaged[random.integers(min(len(data), 200))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[2] == 3
        except HistillError as error:
            codes.add(error.code)
    assert codes <= {Exit.INPUT, Exit.UNSAFE}


# --- masks ------------------------------------------------------------------------------------------------------------

MASK = np.array([[255, 0, 3], [0, 0, 255]], np.uint8)
TRUE = np.array([[0, 1, IGNORE], [1, 1, 0]], np.uint8)


def sample_of(mask: Path | None, crop: Region | None = None) -> Sample:
    return Sample("one", Path("a.png"), crop=crop, mask=mask, line=7)


def failing_mask(sample: Sample, card: DatasetCard, code: Exit, size: tuple[int, int] = (2, 3)) -> str:
    with pytest.raises(HistillError) as caught:
        read_mask(sample, card, size)
    assert caught.value.code == code
    assert caught.value.mend
    return str(caught.value)


def test_values_mean_what_the_card_says(tmp_path: Path) -> None:
    sample = sample_of(save(tmp_path, MASK))
    np.testing.assert_array_equal(read_mask(sample, CARD, (2, 3)), TRUE)
    np.testing.assert_array_equal(read_mask(replace(sample, crop=Region(1, 0, 2, 1)), CARD, (2, 3)), [[1, IGNORE]])
    indexed = Image.fromarray(MASK, mode="P")
    indexed.putpalette([0] * 768)
    indexed.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(sample, CARD, (2, 3)), TRUE)


def test_without_a_word_values_are_indices(tmp_path: Path) -> None:
    card = DatasetCard(classes=("a", "b"))
    sample = sample_of(save(tmp_path, np.array([[0, 1, IGNORE]], np.uint8)))
    np.testing.assert_array_equal(read_mask(sample, card, (1, 3)), [[0, 1, IGNORE]])
    save(tmp_path, np.array([[0, 2, 9]], np.uint8))
    message = failing_mask(sample, card, Exit.INPUT, (1, 3))
    assert "the mask holds the value 2, 9 (known: 0 a, 1 b, 255 ignore)" in message


def test_a_value_that_the_card_leaves_out_is_unknown(tmp_path: Path) -> None:
    card = DatasetCard(classes=("a",), mask_values={"1": "a", "0": "ignore"})
    message = failing_mask(sample_of(save(tmp_path, MASK)), card, Exit.INPUT)
    assert "value 3, 255 (known: 0 ignore, 1 a)" in message


def test_faulty_masks(tmp_path: Path) -> None:
    sample = sample_of(save(tmp_path, MASK))
    assert "is 3 x 2 pixels, its image 2 x 3" in failing_mask(sample, CARD, Exit.INPUT, (3, 2))
    assert "is 3 x 2 pixels, its image 6 x 4" in failing_mask(sample, CARD, Exit.INPUT, (4, 6))
    assert "leaves the image" in failing_mask(replace(sample, crop=Region(2, 0, 2, 1)), CARD, Exit.USAGE)
    assert "line 7 (one): this row has no mask" in failing_mask(sample_of(None), CARD, Exit.USAGE)
    assert "no such file" in failing_mask(sample_of(tmp_path / "none.png"), CARD, Exit.INPUT)
    save(tmp_path, RGB)
    assert "mode RGB, not 8-bit indices" in failing_mask(sample, CARD, Exit.INPUT)
    save(tmp_path, MASK.astype(np.uint16))
    assert "16 or more bits" in failing_mask(sample, CARD, Exit.INPUT)


def test_a_one_bit_mask_is_0_and_1(tmp_path: Path) -> None:
    sample = sample_of(save(tmp_path, MASK == 255))
    plain = DatasetCard(classes=("stroma", "gland"))
    np.testing.assert_array_equal(read_mask(sample, plain, (2, 3)), (MASK == 255).astype(np.uint8))


def test_a_mask_of_0_and_255_alone_has_to_be_explained(tmp_path: Path) -> None:
    sample = sample_of(save(tmp_path, np.where(MASK == 255, 255, 0).astype(np.uint8)))
    with pytest.raises(HistillError, match="255 may be a class") as caught:
        read_mask(sample, DatasetCard(classes=("stroma", "gland")), (2, 3))
    assert caught.value.code == Exit.INPUT
    explained = DatasetCard(classes=("stroma", "gland"), mask_values={"0": "stroma", "255": "ignore"})
    np.testing.assert_array_equal(read_mask(sample, explained, (2, 3)), np.where(MASK == 255, IGNORE, 0))


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []

    def counted(path: Path, crop: Region | None = None) -> images.RgbImage:
        names.append(path.name)
        return read_image(path, crop)

    monkeypatch.setattr(images, "read_image", counted)
    return names


def test_thirty_crops_decode_once(tmp_path: Path, decoded: list[str]) -> None:
    path, cache = save(tmp_path, RGB), ImageCache()
    for i in range(30):
        crop = Region(i % 5, i % 3, 2, 2)
        np.testing.assert_array_equal(cache.read(Sample("one", path, crop)), RGB[crop.y :, crop.x :][:2, :2])
    np.testing.assert_array_equal(cache.read(Sample("one", path)), RGB)
    assert decoded == ["a.png"]
    with pytest.raises(HistillError, match="leaves the image"):
        cache.read(Sample("one", path, Region(0, 0, 8, 1)))


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    path, cache = save(tmp_path, RGB), ImageCache()
    for crop in (None, Region(0, 0, 7, 5)):
        cache.read(Sample("one", path, crop))[:] = 0
        np.testing.assert_array_equal(cache.read(Sample("one", path, crop)), RGB)


def test_the_image_used_longest_ago_goes_first(tmp_path: Path, decoded: list[str]) -> None:
    one, two, three = (Sample(name, save(tmp_path, RGB, f"{name}.png")) for name in ("1", "2", "3"))
    cache = ImageCache(limit=2 * RGB.nbytes)
    for sample in (one, two, one, three, one, two):
        cache.read(sample)
    assert decoded == ["1.png", "2.png", "3.png", "2.png"]


def test_an_image_over_the_limit_is_read_but_not_kept(tmp_path: Path, decoded: list[str]) -> None:
    small, large = (
        Sample(name, save(tmp_path, RGB[:rows], f"{name}.png")) for name, rows in (("small", 1), ("big", 5))
    )
    cache = ImageCache(limit=RGB.nbytes - 1)
    for sample in (small, large, large, small):
        cache.read(sample)
    assert decoded == ["small.png", "big.png", "big.png"]


def test_another_process_gets_an_empty_cache(tmp_path: Path, decoded: list[str]) -> None:
    cache = ImageCache(limit=1000)
    cache.read(Sample("one", save(tmp_path, RGB)))
    twin = pickle.loads(pickle.dumps(cache))
    assert twin.limit == 1000
    twin.read(Sample("one", tmp_path / "a.png"))
    assert decoded == ["a.png", "a.png"]


# --- a whole table ----------------------------------------------------------------------------------------------------


def test_every_fault_of_every_file_is_listed_and_none_ends_the_search(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[str] = []
    whole_mask = images._whole_mask

    def counted(path: Path, card: DatasetCard, size: tuple[int, int]) -> images.LabelMap:
        masks.append(path.name)
        return whole_mask(path, card, size)

    monkeypatch.setattr(images, "_whole_mask", counted)
    good = save(tmp_path, RGB, "good.png")
    mask = save(tmp_path, np.zeros((5, 7), np.uint8), "mask.png")
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:60])
    strange = save(tmp_path, np.full((5, 7), 9, np.uint8), "strange.png")
    wide = save(tmp_path, RGB[:, :6], "wide.png")
    samples = (
        Sample("whole", good, mask=mask, line=2),
        Sample("crop", good, Region(0, 0, 7, 5), mask=mask, line=3),
        Sample("outside", good, Region(1, 0, 7, 5), line=4),
        Sample("torn", tmp_path / "bad.png", mask=mask, line=5),
        Sample("torn again", tmp_path / "bad.png", Region(0, 0, 1, 1), line=6),
        Sample("gone", tmp_path / "none.png", line=7),
        Sample("other values", good, mask=strange, line=8),
        Sample("other size", wide, mask=mask, line=9),
        Sample("mask gone", good, mask=tmp_path / "none.png", line=10),
        Sample("good", wide, line=11),
    )
    seen: list[tuple[int, int]] = []
    faults = check_files(
        Manifest(samples, CARD, tmp_path / "t.csv", ""), lambda done, total: seen.append((done, total))
    )
    for fault, start, part in zip(
        faults,
        [
            "line 4 (outside)",
            "line 5 (torn)",
            "line 7 (gone)",
            "line 8 (other values)",
            "line 9 (other size)",
            "line 10 (",
        ],
        [
            "leaves the image",
            "cannot be decoded",
            "no such file",
            "value 9",
            "7 x 5 pixels, its image 6 x 5",
            "no such",
        ],
        strict=True,
    ):
        assert fault.startswith(f"{start}")
        assert part in fault
    assert seen == [(i, 10) for i in range(1, 11)]
    # The same mask twice: once for each size of image it is held against.
    assert sorted(masks) == ["mask.png", "mask.png", "none.png", "strange.png"]
    assert sorted(decoded) == ["bad.png", "good.png", "none.png", "wide.png"]
