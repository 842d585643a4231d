import io

import numpy as np
import pytest
from PIL import Image

from histill.core.labels import IGNORE, Classes
from histill.core.report import Number
from histill.report.pictures import class_bars, jpeg, overlay, png, strip

CLASSES = Classes(("back", "one", "two"), ((9, 9, 9), (200, 0, 0), (0, 0, 250)), background="back")


def opened(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_png_loses_nothing_and_jpeg_little():
    picture = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    assert opened(png(picture)).format == "PNG"
    np.testing.assert_array_equal(np.asarray(opened(png(picture))), picture)
    smooth = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (30, 1, 3))
    assert opened(jpeg(smooth)).format == "JPEG"
    assert np.abs(np.asarray(opened(jpeg(smooth))).astype(int) - smooth).max() < 8


def test_overlay_fills_and_lines_regions_and_leaves_the_rest():
    image = np.full((30, 40, 3), 100, np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    labels[5:20, 5:20], labels[5:20, 25:35] = 1, IGNORE
    before = image.copy()
    painted = overlay(image, labels, CLASSES, opacity=0.25, line=2)
    np.testing.assert_array_equal(image, before)
    assert (painted[labels != 1] == 100).all()
    inner = np.zeros_like(labels, bool)
    inner[7:18, 7:18] = True
    assert (painted[inner] == (125, 75, 75)).all()
    assert (painted[(labels == 1) & ~inner] == (200, 0, 0)).all()


def test_overlay_draws_no_line_along_the_image_border():
    painted = overlay(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 2, np.uint8), CLASSES, opacity=0.5)
    assert (painted == (0, 0, 125)).all()


def test_overlay_wants_one_size():
    with pytest.raises(ValueError, match="differ in size"):
        overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8), CLASSES)


def test_a_strip_shows_its_panels_side_by_side():
    image = np.full((50, 100, 3), 240, np.uint8)
    labels = np.full((50, 100), 1, np.uint8)
    sheet = np.asarray(
        opened(strip(image, {"truth": labels, "map": np.zeros((10, 10, 3), np.uint8)}, CLASSES, height=80))
    )
    assert sheet.shape[1] == 160 + 10 + 160 + 10 + 80
    middle = sheet[-40].astype(int)
    for x, colour in ((80, (240, 240, 240)), (250, (224, 144, 144)), (380, (0, 0, 0))):
        np.testing.assert_allclose(middle[x], colour, atol=6)
    assert (sheet[:20, :160] < 128).any()
    assert (sheet[:20, 170:330] < 128).any()
    with pytest.raises(ValueError, match="panel 'truth'"):
        strip(image, {"truth": labels[:-1]}, CLASSES)


def test_a_legend_names_the_painted_classes():
    image, names = np.full((50, 200, 3), 128, np.uint8), {}
    plain = np.asarray(opened(strip(image, names, CLASSES, height=60)))
    legend = np.asarray(opened(strip(image, names, CLASSES, height=60, legend=True))).astype(int)
    below = legend[len(plain) :]
    assert len(below) > 15
    for colour, there in ((CLASSES.colours[1], True), (CLASSES.colours[2], True)):
        assert (np.abs(below - colour).max(-1) < 25).any() == there


def test_a_long_panel_name_stays_over_its_panel():
    image = np.full((50, 50, 3), 240, np.uint8)
    two = {"a name much longer than its panel is wide": image, "b": image}
    sheet = np.asarray(opened(strip(image, two, CLASSES, height=60)))
    assert (sheet[:20, 131:139] > 200).all()  # the gap before the last panel


def test_bars_are_a_png_and_the_same_each_time():
    numbers = {"one": Number(0.5, 9, 0.4, 0.6), "two": Number(float("nan"), 0), "three": Number(0.2, 9)}
    data = class_bars({"mlps": numbers}, label="IoU")
    assert opened(data).size == (1200, 680)
    assert data == class_bars({"mlps": numbers}, label="IoU")
    assert data != class_bars({"mlps": {**numbers, "three": Number(0.3, 9)}}, label="IoU")
    both = np.asarray(opened(class_bars({"mlps": numbers, "cam": numbers}, label="IoU")).convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (230, 159, 0)):
        shown = 0.88 * np.array(colour) + 0.12 * 255
        assert (np.abs(both - shown).max(-1) < 3).sum() > 1000
