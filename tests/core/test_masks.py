"""Label maps: to PNG and back without loss."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from histill.core.labels import IGNORE, Classes
from histill.core.masks import grey_png, label_png, read_indexed, rgb_png

CLASSES = Classes(("a", "b", "c"), ((10, 20, 30), (40, 50, 60), (70, 80, 90)))
labels = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, IGNORE]))


@given(labels)
def test_label_maps_survive_and_show_their_colours(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    path.write_bytes(label_png(values, CLASSES))
    np.testing.assert_array_equal(read_indexed(path), values)
    colours = {**dict(enumerate(CLASSES.colours)), IGNORE: (255, 255, 255)}
    expected = [[colours[int(value)] for value in row] for row in values]
    np.testing.assert_array_equal(np.array(Image.open(path).convert("RGB")), expected)
    assert label_png(values, CLASSES) == path.read_bytes()


def test_grey_rounds_and_clips() -> None:
    values = np.array([[-1, 0, 0.5, 1, 2, 1 / 255]], np.float32)
    assert np.array(Image.open(io.BytesIO(grey_png(values)))).tolist() == [[0, 0, 128, 255, 255, 1]]


def test_rgb_survives() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(rgb_png(image)))), image)


def test_one_bit_masks_are_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "mask.png")
    assert read_indexed(tmp_path / "mask.png").tolist() == [[1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_colours_are_no_indices(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"mode {mode}, not 8-bit indices"):
        read_indexed(tmp_path / "mask.png")


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"nothing")
    with pytest.raises(OSError, match="cannot identify"):
        read_indexed(tmp_path / "mask.png")
