"""Maps read back by the tile: any rectangle, other programs' files, and files that are damaged."""

import logging

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.formats import maps, pyramid
from histill.formats.maps import open_labels, open_probabilities
from histill.formats.pyramid import new_labels

CLASSES = Classes(("a", "b", "c"))
LABELS = np.kron(np.random.default_rng(0).integers(0, 3, (30, 41), dtype=np.uint8), np.ones((5, 5), np.uint8))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "a.ome.tif"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "TILE", 64)
        with new_labels(path, shape=LABELS.shape, mpp=0.5, classes=CLASSES) as making:
            making.add(LABELS)
    return path


@settings(max_examples=30)
@given(st.data())
def test_any_rectangle(path, data):
    height, width = LABELS.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    with open_labels(path) as image:
        np.testing.assert_array_equal(image.read(x, y, w, h), LABELS[y : y + h, x : x + w])


@pytest.mark.parametrize("rows", [1, 33, 64, 1000])
def test_bands_from_the_top_down(path, rows):
    with open_labels(path) as image:
        bands = list(image.bands(rows))
    assert all(len(band) == rows for band in bands[:-1])
    np.testing.assert_array_equal(np.vstack(bands), LABELS)


def test_only_the_tiles_that_are_asked_for_are_read(path, monkeypatch):
    read = []
    with open_labels(path) as image:
        chunk = image._chunk
        monkeypatch.setattr(image, "_chunk", lambda page, index: read.append(index) or chunk(page, index))
        image.read(60, 60, 10, 10)
    assert sorted(read) == [0, 1, 4, 5]


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 206, 5), (0, 0, 0, 5), (200, 0, 6, 5), (0, 149, 1, 2)])
def test_rectangles_outside_are_refused(path, box):
    with open_labels(path) as image, pytest.raises(HistillError, match="not inside") as error:
        image.read(*box)
    assert error.value.code == Exit.USAGE


def test_facts(path):
    with open_labels(path) as image:
        assert image.classes == CLASSES
        assert image.mpp == 0.5
        assert image.facts.levels == ((150, 205), (75, 103), (38, 52))


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48), "compression": "zlib"},
        {"tile": (32, 48)},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 7},
        {"compression": "zlib", "predictor": True},
        {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
        {"bigtiff": True, "byteorder": ">"},
    ],
)
def test_masks_of_other_programs(tmp_path, options):
    file = tmp_path / "mask.tif"
    settings = {"photometric": "minisblack", "resolution": (25_400 / 0.5,) * 2, "resolutionunit": "INCH"} | options
    big = {name: settings.pop(name) for name in ("bigtiff", "byteorder") if name in settings}
    with tifffile.TiffWriter(file, **big) as writer:
        writer.write(LABELS, metadata=None, **settings)
    with open_labels(file) as image:
        np.testing.assert_array_equal(image.read(3, 4, 200, 140), LABELS[4:144, 3:203])
        assert image.mpp == pytest.approx(0.5, rel=1e-4)
        assert image.classes is None


def test_a_mask_without_spacing_has_none(tmp_path):
    file = tmp_path / "mask.tif"
    tifffile.imwrite(file, LABELS, metadata=None)
    with open_labels(file) as image:
        assert image.mpp is None


def test_tiles_that_are_left_out_say_nothing(tmp_path):
    file = tmp_path / "mask.tif"
    tiles = iter([np.ones((16, 16), np.uint8), None, None, np.ones((16, 16), np.uint8)])
    tifffile.imwrite(file, tiles, shape=(32, 32), dtype=np.uint8, tile=(16, 16), photometric="minisblack")
    with open_labels(file) as image:
        labels = image.read(0, 0, 32, 32)
    assert (labels[:16, :16] == 1).all()
    assert (labels[:16, 16:] == IGNORE).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((20, 20), np.uint16), np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.float32)]
)
def test_pixels_that_are_no_labels_are_refused(tmp_path, pixels):
    file = tmp_path / "mask.tif"
    tifffile.imwrite(file, pixels)
    with pytest.raises(HistillError, match="single-channel mask") as error:
        open_labels(file)
    assert error.value.code == Exit.INPUT


def test_labels_are_no_probabilities_of_several_classes(path):
    with open_probabilities(path) as image:
        assert image.read(0, 0, 10, 10).shape == (1, 10, 10)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(HistillError, match="no such file") as error:
        open_labels(tmp_path / "nothing.tif")
    assert error.value.code == Exit.INPUT


def test_a_bomb_in_one_strip_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "mask.tif"
    tifffile.imwrite(file, np.zeros((400, 400), np.uint8), compression="zlib", rowsperstrip=400)
    monkeypatch.setattr(maps, "LARGEST_CHUNK", 100_000)
    with pytest.raises(HistillError, match="too much memory") as error:
        open_labels(file)
    assert error.value.code == Exit.UNSAFE


@pytest.fixture
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def outcome(file):
    """The labels, or the error."""
    try:
        with open_labels(file) as image:
            return image.read(0, 0, 205, 150)
    except HistillError as error:
        return error


def test_cut_off_anywhere_it_is_an_error_with_a_mend(tmp_path, path, quiet):
    data, file = path.read_bytes(), tmp_path / "cut.ome.tif"
    for length in range(0, len(data), 97):
        file.write_bytes(data[:length])
        found = outcome(file)
        if isinstance(found, HistillError):
            assert found.code == Exit.INPUT
            assert found.mend
        else:  # the smallest level comes last: without it the largest is whole
            np.testing.assert_array_equal(found, LABELS)


def test_a_flipped_byte_is_an_error_or_leaves_most_of_it(tmp_path, path, quiet):
    data, file = path.read_bytes(), tmp_path / "flipped.ome.tif"
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        found = outcome(file)
        if isinstance(found, HistillError):
            assert found.code in (Exit.INPUT, Exit.USAGE, Exit.UNSAFE)
        else:
            assert (found == LABELS).mean() > 0.5
