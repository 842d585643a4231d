"""Pyramidal TIFF: what goes in comes out, in every reader; levels as the slow way has them; nothing half written."""

import tracemalloc
import zlib

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.formats import pyramid
from histill.formats.maps import open_labels, open_probabilities
from histill.formats.pyramid import new_labels, new_probabilities, new_slide

CLASSES = Classes(("tumour & <necrosis>", "strömä", "fat"), ((200, 10, 20), (3, 150, 40), (0, 0, 255)))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pyramid, "TILE", 32)


def blotches(shape, seed=0, values=(0, 1, 2, IGNORE), side=7):
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array(values, np.uint8), (-(-shape[0] // side), -(-shape[1] // side)))
    return np.kron(coarse, np.ones((side, side), np.uint8))[: shape[0], : shape[1]]


def write_labels(path, labels, rows=50, mpp=0.5):
    with new_labels(path, shape=labels.shape, mpp=mpp, classes=CLASSES) as making:
        for top in range(0, len(labels), rows):
            making.add(labels[top : top + rows])
    return path


def halved(labels):
    """A label map at half the size, the slow way."""
    h, w = labels.shape
    padded = np.pad(labels, ((0, h % 2), (0, w % 2)), mode="edge")
    small = np.empty(((h + 1) // 2, (w + 1) // 2), np.uint8)
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            four = padded[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist()
            small[row, column] = max(four, key=lambda value: (four.count(value), -four.index(value)))
    return small


@settings(max_examples=20)
@given(h=st.integers(1, 150), w=st.integers(1, 150), rows=st.integers(1, 160), seed=st.integers(0, 99))
def test_labels_come_back_and_levels_are_majorities(tmp_path_factory, h, w, rows, seed):
    labels = blotches((h, w), seed, side=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "TILE", 32)
        path = write_labels(tmp_path_factory.mktemp("maps") / "a.ome.tif", labels, rows)
    with open_labels(path) as image:
        assert image.shape == (h, w)
        expected = labels
        for level, (height, width) in enumerate(image.facts.levels):
            np.testing.assert_array_equal(image.read(0, 0, width, height, level), expected)
            expected = halved(expected)
        assert max(image.facts.levels[-1]) <= 32


def test_tifffile_and_openslide_read_labels(tmp_path):
    labels = blotches((530, 600))
    path = write_labels(tmp_path / "a.ome.tif", labels)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        (series,) = file.series
        assert [level.shape for level in series.levels] == [(530, 600), (265, 300)]
        np.testing.assert_array_equal(series.asarray(), labels)
        np.testing.assert_array_equal(series.levels[1].asarray(), halved(labels))
        assert len(file.pages) == 1  # the smaller levels are SubIFDs
        assert file.pages[0].tile == (512, 512)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (600, 530)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], labels)


@pytest.mark.parametrize("mpp", [0.2275, 0.25, 0.499, 1.0])
def test_spacing_in_xml_and_tags(tmp_path, mpp):
    path = write_labels(tmp_path / "a.ome.tif", blotches((60, 90)), mpp=mpp)
    with open_labels(path) as image:
        assert image.mpp == mpp
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        assert 1e4 / page.resolution[0] == pytest.approx(mpp, rel=1e-6)


def test_probabilities_come_back_plane_by_plane(tmp_path, small_tiles):
    planes = np.random.default_rng(0).random((3, 100, 75)).astype(np.float32)
    for exact, error in ((True, 0), (False, 0.5 / 255 + 1e-6)):
        path = tmp_path / f"{exact}.ome.tif"
        with new_probabilities(path, shape=(100, 75), mpp=0.5, classes=CLASSES, exact=exact) as making:
            for top in range(0, 100, 33):
                making.add(planes[:, top : top + 33])
        with open_probabilities(path) as image:
            assert image.facts.planes == CLASSES.names
            assert np.abs(image.read(0, 0, 75, 100) - planes).max() <= error
            mean = planes[:, :100, :74].reshape(3, 50, 2, 37, 2).mean(axis=(2, 4))
            assert np.abs(image.read(0, 0, 37, 50, 1) - mean).max() <= error + 0.51 / 255 * (not exact) + 1e-6
        with tifffile.TiffFile(path) as file:
            assert file.series[0].axes == "CYX"
            assert len(file.pages) == 3


def test_bytes_are_probabilities_already(tmp_path):
    planes = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    path = tmp_path / "a.ome.tif"
    with new_probabilities(path, shape=(20, 30), mpp=0.5, classes=CLASSES) as making:
        making.add(planes)
    with open_probabilities(path) as image:
        np.testing.assert_array_equal(np.rint(image.read(0, 0, 30, 20) * 255), planes)


def test_openslide_reads_slides_in_their_colours(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 15, 3), np.uint8), (1100, 700), interpolation=cv2.INTER_CUBIC)
    image[:100, :100] = (250, 20, 60)
    path = tmp_path / "a.tif"
    with new_slide(path, shape=(700, 1100), mpp=0.2275, quality=90, description="made up") as making:
        making.add(image[:333])
        making.add(image[333:])
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.properties["openslide.comment"] == "made up"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2275)
        assert slide.level_dimensions == ((1100, 700), (550, 350), (275, 175))
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
        assert (pixels[..., 3] == 255).all()
        assert np.abs(pixels[..., :3].astype(int) - image).mean() < 2
        assert np.abs(pixels[50, 50, :3].astype(int) - (250, 20, 60)).max() <= 3
        small = np.asarray(slide.read_region((0, 0), 2, (275, 175)))[..., :3]
        expected = cv2.resize(image, (275, 175), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("shape", [(512, 512), (1, 1), (513, 1)])
def test_slides_of_odd_sizes(tmp_path, shape):
    path = tmp_path / "a.tif"
    with new_slide(path, shape=shape, mpp=0.5) as making:
        making.add(np.full((*shape, 3), 120, np.uint8))
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == shape[::-1]
        assert np.abs(np.asarray(slide.read_region((0, 0), 0, shape[::-1]))[..., :3].astype(int) - 120).max() <= 1


def test_large_maps_are_bigtiff_and_small_ones_are_not(tmp_path, monkeypatch):
    labels = blotches((60, 90))
    assert write_labels(tmp_path / "a.ome.tif", labels).read_bytes()[:4] == b"II*\0"
    monkeypatch.setattr(pyramid, "CLASSIC_LIMIT", 5000)
    path = write_labels(tmp_path / "b.ome.tif", labels)
    assert path.read_bytes()[:4] == b"II+\0"
    with open_labels(path) as image:
        np.testing.assert_array_equal(image.read(0, 0, 90, 60), labels)


def test_same_bytes_however_it_is_cut_and_coded(tmp_path, monkeypatch):
    labels = blotches((1300, 600))
    once = write_labels(tmp_path / "a.ome.tif", labels, 1300).read_bytes()
    monkeypatch.setattr(pyramid, "WORKERS", 1)
    assert write_labels(tmp_path / "b.ome.tif", labels, 77).read_bytes() == once


def test_tiles_are_zlib_streams_that_any_reader_knows(tmp_path):
    labels = blotches((600, 700))
    path = write_labels(tmp_path / "a.ome.tif", labels)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        at, count = page.dataoffsets[0], page.databytecounts[0]
        tile = np.frombuffer(zlib.decompress(path.read_bytes()[at : at + count]), np.uint8).reshape(512, 512)
    np.testing.assert_array_equal(tile, labels[:512, :512])


def test_memory_does_not_grow_with_the_map(tmp_path, small_tiles):
    peaks = []
    for height in (500, 8_000):
        tracemalloc.start()
        with new_labels(tmp_path / "a.ome.tif", shape=(height, 64), mpp=0.5, classes=CLASSES) as making:
            for _ in range(height // 100):
                making.add(np.zeros((100, 64), np.uint8))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # What does grow is where each tile stands: some hundred bytes of numbers a tile, for 700 tiles.
    assert peaks[1] - peaks[0] < 400_000


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([np.zeros((10, 20), np.uint8)], "only 10 of the 30 rows"),
        ([np.zeros((31, 20), np.uint8)], "more than the 30 rows"),
        ([np.zeros((30, 21), np.uint8)], "does not fit"),
        ([np.zeros((30, 20), np.int64)], "does not fit"),
        ([np.zeros((2, 30, 20), np.uint8)], "does not fit"),
    ],
)
def test_bands_that_do_not_fit_leave_nothing_behind(tmp_path, bands, message):
    path = tmp_path / "a.ome.tif"

    def write():
        with new_labels(path, shape=(30, 20), mpp=0.5, classes=CLASSES) as making:
            for band in bands:
                making.add(band)

    with pytest.raises(HistillError, match=message) as error:
        write()
    assert error.value.code == Exit.BUG
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_labels(tmp_path / "a.ome.tif", blotches((60, 90)))
    before = path.read_bytes()

    def full(tile):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyramid, "_deflate", full)
    with pytest.raises(HistillError, match="disk is full") as error:
        write_labels(path, blotches((60, 90), seed=1))
    assert error.value.code == Exit.STORAGE
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
