"""Made-up slides: the same pixels however they are cut, the same tissue at any spacing, and a truth that fits."""

import importlib

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.core.manifest import read_manifest
from histill.core.masks import read_indexed
from histill.data.synthetic import slides
from histill.data.synthetic.anatomy import Anatomy
from histill.data.synthetic.cut import cut_patches
from histill.data.synthetic.fields import Places, Texture, bilinear
from histill.data.synthetic.marks import Marks
from histill.data.synthetic.patches import present
from histill.data.synthetic.scene import CLASSES, FAT, GLAND, STROMA, TUMOUR, WHITE
from histill.data.synthetic.slides import SlidePlan, open_section, write_slide, write_slides
from histill.data.synthetic.stain import SlideLook
from histill.data.synthetic.stained import SHOWN, gather, render_slide_bank, stain
from histill.formats.maps import open_labels

COARSE = 1.0  # micrometres per pixel of the slides
BANK = 2.0  # and of the bank that they are made of, so that it is drawn soon
PLAN = SlidePlan("slide-01", 1500, 1200, COARSE)


@pytest.fixture(scope="module")
def bank():
    return render_slide_bank(0, BANK)


@pytest.fixture(scope="module")
def section(bank):
    return open_section(PLAN, bank)


@pytest.fixture(scope="module")
def whole(section):
    return section.photograph(0, 0, PLAN.width, PLAN.height)


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y", "w", "h"), [(0, 0, 1500, 600), (301, 257, 512, 400), (733, 600, 64, 64)])
def test_a_part_is_the_same_as_in_the_whole(section, whole, x, y, w, h):
    image, labels = section.photograph(x, y, w, h)
    np.testing.assert_array_equal(labels, whole[1][y : y + h, x : x + w])
    np.testing.assert_array_equal(image, whole[0][y : y + h, x : x + w])


def test_one_block_is_four(section):
    one = section.photograph(400, 300, 256, 256)
    for y in (0, 128):
        for x in (0, 128):
            four = section.photograph(400 + x, 300 + y, 128, 128)
            for part, of_whole in zip(four, one, strict=True):
                np.testing.assert_array_equal(part, of_whole[y : y + 128, x : x + 128])


def test_seed_and_name_say_what_it_is(bank, section):
    box = (500, 400, 64, 64)
    again = open_section(PLAN, bank).photograph(*box)
    np.testing.assert_array_equal(again[0], section.photograph(*box)[0])
    other = open_section(SlidePlan("slide-02", 1500, 1200, COARSE), bank).photograph(*box)
    assert (other[0] != again[0]).any()


def test_tissue_lies_on_glass(whole):
    image, labels = whole
    for edge in (labels[:15], labels[-15:], labels[:, :15].T, labels[:, -15:].T):
        assert (edge == WHITE).all()
    shares = np.bincount(labels.ravel(), minlength=7) / labels.size
    assert 0.25 < 1 - shares[WHITE] < 0.85
    assert (shares[:2] > 0.02).all()
    assert np.count_nonzero(shares) == 7
    assert image[labels == WHITE].mean() > 220
    assert image[labels == TUMOUR].mean() < image[labels == STROMA].mean() < 220


def test_truth_says_where_the_colour_is(whole):
    """Apart from fat and lumens tissue is stained, and glass is not."""
    image, labels = whole
    dark = cv2.blur(image, (9, 9)).min(axis=2) < 215
    assert dark[labels == TUMOUR].mean() > 0.98
    assert dark[labels == STROMA].mean() > 0.9
    assert dark[labels == WHITE].mean() < 0.05


def test_the_same_tissue_at_another_spacing(bank, whole):
    """Each class covers the same area, and the same places."""
    plan = SlidePlan("slide-01", 750, 600, 2 * COARSE)
    labels = open_section(plan, bank).photograph(0, 0, plan.width, plan.height)[1]
    fine, coarse = np.bincount(whole[1].ravel(), minlength=7), 4 * np.bincount(labels.ravel(), minlength=7)
    # Cells at outlines are in or out as a whole, and this slide is so small that a few of fat are more than 2 %.
    assert (np.abs(coarse - fine) <= np.maximum(0.02 * fine, 6000)).all()
    assert (whole[1][::2, ::2] == labels).mean() > 0.97


def test_a_look_can_be_given(bank):
    plan = SlidePlan("slide-01", 400, 300, COARSE, look=SlideLook(white=(240.0, 200.0, 160.0), noise=0.0))
    image, labels = open_section(plan, bank).photograph(0, 0, 400, 300)
    assert (image[labels == WHITE][:50] == (240, 200, 160)).all()


def test_an_empty_slide_has_no_tissue(monkeypatch):
    monkeypatch.setattr(slides, "render_slide_bank", None)  # it needs none
    image, labels = open_section(SlidePlan("none", 400, 300, COARSE, empty=True)).photograph(0, 0, 400, 300)
    assert (labels == WHITE).all()
    assert image.min() > 200


def test_marks_change_pixels_and_no_truth(bank, section, whole):
    marked = open_section(SlidePlan("slide-01", 1500, 1200, COARSE, pen=True, dust=True), bank)
    image, labels = marked.photograph(0, 0, 1500, 1200)
    np.testing.assert_array_equal(labels, whole[1])
    changed = (image != whole[0]).any(axis=2)
    assert 0.005 < changed.mean() < 0.4
    assert image[changed].mean() < whole[0][changed].mean() - 20
    part = marked.photograph(300, 200, 500, 500)[0]
    np.testing.assert_array_equal(part, image[200:700, 300:800])


def test_marks_lie_where_they_are_asked_for():
    none = Marks(0, "a", 5000, 4000, pen=False, dust=False)
    y, x = np.arange(0, 4000, 10.0), np.arange(0, 5000, 10.0)
    assert none.pen(y, x) is None
    assert none.dust(y, x) is None
    dust = Marks(0, "a", 5000, 4000, pen=False, dust=True).dust(y, x)
    assert 0 < (dust > 0).mean() < 0.01


# --- what pixels are made of ------------------------------------------------------------------------------------------


def test_bilinear_is_what_the_book_says():
    rng = np.random.default_rng(0)
    values = rng.random((9, 7)).astype(np.float32)
    y, x = rng.uniform(-20, 20, 6), rng.uniform(-20, 20, 5)
    found = bilinear(values, Places.of(y), Places.of(x), wrap=True)
    for i, row in enumerate(y):
        for j, column in enumerate(x):
            r, c = int(np.floor(row)), int(np.floor(column))
            down, right = row - r, column - c
            four = [[values[(r + a) % 9, (c + b) % 7] for b in (0, 1)] for a in (0, 1)]
            top, bottom = (line[0] * (1 - right) + line[1] * right for line in four)
            assert found[i, j] == pytest.approx(top * (1 - down) + bottom * down, abs=1e-5)


def test_beyond_a_grid_its_edge_goes_on():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = bilinear(values, Places.of(np.array([-5.0, 0.5, 9.0])), Places.of(np.array([-3.0, 9.0])))
    np.testing.assert_allclose(found, [[0, 3], [2, 5], [8, 11]])


def test_a_texture_hangs_together_over_its_scale():
    texture = Texture.draw(50, np.random.default_rng(0), side=256)
    steps = np.arange(0, 1500, 5.0)
    values = texture.at(steps, steps)
    near, far = (np.corrcoef(values[:, :-lag].ravel(), values[:, lag:].ravel())[0, 1] for lag in (2, 60))
    assert near > 0.9
    assert abs(far) < 0.3


@pytest.mark.parametrize("turn", range(8))
def test_a_cut_is_a_piece_of_the_plane_that_the_tile_fills(bank, turn):
    tile = bank.bank.tiles[GLAND][0]
    stained = stain(tile, gather(tile), BANK, SlideLook(), BANK, grounded=False)
    side = stained.side
    asked = []

    def ask(centres):
        asked.append(centres)
        return np.full(len(centres), SHOWN, np.uint8)

    pixels, bits = stained.cut(-70, side - 40, 100, 90, turn, ask)
    plane = stained.full
    if turn & 1:
        plane = plane[::-1]
    if turn & 2:
        plane = plane[:, ::-1]
    if turn & 4:
        plane = plane.transpose(1, 0, 2)
    rows, columns = np.arange(-70, 30) % side, np.arange(side - 40, side + 50) % side
    np.testing.assert_array_equal(pixels, plane[np.ix_(rows, columns)])
    assert (bits > 0).any()


def test_objects_that_are_not_shown_give_way_to_the_ground(bank):
    tile = bank.bank.tiles[STROMA][0]
    stained = stain(tile, gather(tile), BANK, SlideLook(), BANK, grounded=True)
    side = stained.side
    hidden, _ = stained.cut(0, 0, side, side, 0, lambda centres: np.ones(len(centres), np.uint8))
    shown, _ = stained.cut(0, 0, side, side, 0, lambda centres: np.full(len(centres), SHOWN, np.uint8))
    np.testing.assert_array_equal(shown, stained.full)
    np.testing.assert_array_equal(hidden[stained.ids > 0], stained.ground[stained.ids > 0])
    np.testing.assert_array_equal(hidden[stained.ids == 0], stained.full[stained.ids == 0])


def test_gathered_objects_are_those_of_the_tile(bank):
    tile = bank.bank.tiles[FAT][0]
    objects = gather(tile)
    side = len(tile.owned)
    assert (objects.ids > 0).tolist() == tile.owned.tolist()
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, side, (200, 2)):
        if tile.owned[row, column]:
            centre = objects.centres[objects.ids[row, column]] * side - 0.5
            assert centre == pytest.approx(tile.offset[row, column] + (row, column))


@settings(max_examples=10)
@given(st.floats(1, 5000), st.floats(1, 5000), st.text(max_size=3))
def test_any_size_can_be_planned(width, height, name):
    window = Anatomy(0, name, width, height).window(np.arange(0, 60, 3.0), np.arange(0, 60, 3.0))
    assert window.label.shape == (20, 20)
    assert all(np.isfinite(depth).all() for depth in window.depth.values())


# --- files ------------------------------------------------------------------------------------------------------------


def write_small(folder, bank, **options):
    path, truth = folder / "slide.tif", folder / "truth.ome.tif"
    counts = write_slide(path, width=700, height=600, mpp=COARSE, name="a", truth=truth, bank=bank, **options)
    return path, truth, counts


def test_a_slide_and_its_truth_on_disk(tmp_path, bank):
    path, truth, counts = write_small(tmp_path, bank)
    image, labels = open_section(SlidePlan("a", 700, 600, COARSE), bank).photograph(0, 0, 700, 600)
    with open_labels(truth) as written:
        np.testing.assert_array_equal(written.read(0, 0, 700, 600), labels)
        assert written.classes == CLASSES
        assert written.mpp == COARSE
    assert counts.tolist() == np.bincount(labels.ravel(), minlength=7).tolist()
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (700, 600)
        assert slide.level_count == 2
        assert "synthetic" in slide.properties["openslide.comment"]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(COARSE)
        stored = np.asarray(slide.read_region((0, 0), 0, (700, 600)))[..., :3]
    assert np.abs(stored.astype(int) - image).mean() < 8  # JPEG


def test_the_same_bytes_whatever_the_number_of_threads(tmp_path, bank, monkeypatch):
    monkeypatch.setattr(slides, "BLOCK", 256)
    written = []
    for workers in (1, 3):
        path, truth, _ = write_small(tmp_path / str(workers), bank, workers=workers)
        written.append(path.read_bytes() + truth.read_bytes())
    assert written[0] == written[1]


def test_blocks_of_another_size_make_the_same_slide(tmp_path, bank, monkeypatch):
    first = write_small(tmp_path / "a", bank)[0].read_bytes()
    monkeypatch.setattr(slides, "BLOCK", 300)
    assert write_small(tmp_path / "b", bank)[0].read_bytes() == first


@pytest.mark.parametrize("wrong", [{"mpp": 0.05}, {"mpp": float("nan")}, {"mpp": 3.0}, {"width": 0}, {"height": -5}])
def test_numbers_out_of_range_are_refused(tmp_path, bank, wrong):
    numbers = {"width": 100, "height": 100, "mpp": COARSE} | wrong
    with pytest.raises(HistillError) as error:
        write_slide(tmp_path / "a.tif", bank=bank, **numbers)
    assert error.value.code == Exit.USAGE
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, bank):
    folder = tmp_path_factory.mktemp("slides") / "set"
    return write_slides(folder, count=3, width=800, height=600, mpp=COARSE, seed=1, marks=True, bank=bank)


def test_a_data_set_of_slides(data_set):
    table = read_manifest(data_set)
    assert [sample.split for sample in table.samples] == ["train", "test", "val"]
    assert len({sample.patient for sample in table.samples}) == 3
    assert table.card.synthetic
    for sample in table.samples:
        assert sample.mpp == COARSE
        with openslide.OpenSlide(sample.path) as slide, open_labels(sample.mask) as truth:
            assert slide.dimensions == truth.shape[::-1] == (800, 600)
            labels = truth.read(0, 0, 800, 600)
        tissue = labels[labels != WHITE]
        shares = np.bincount(tissue, minlength=7) / tissue.size
        assert set(sample.labels) == {name for name, share in zip(CLASSES.names, shares, strict=True) if share >= 0.01}


def test_patches_are_cut_from_slides(tmp_path, data_set):
    table = read_manifest(cut_patches(data_set, tmp_path / "patches", per_slide=6, size=96))
    assert 12 <= len(table.samples) <= 18
    slides_of = {sample.id: sample for sample in read_manifest(data_set).samples}
    for sample in table.samples:
        parent, x, y = sample.id.rsplit("-", 2)
        origin, left, top = slides_of[parent], int(x[1:]), int(y[1:])
        assert (sample.patient, sample.split, sample.mpp) == (origin.patient, origin.split, origin.mpp)
        mask, image = read_indexed(sample.mask), cv2.imread(str(sample.path))[..., ::-1]
        with openslide.OpenSlide(origin.path) as slide, open_labels(origin.mask) as truth:
            np.testing.assert_array_equal(image, np.asarray(slide.read_region((left, top), 0, (96, 96)))[..., :3])
            np.testing.assert_array_equal(mask, truth.read(left, top, 96, 96))
        assert sample.labels == tuple(name for name in present(mask) if name != "white")
        assert (mask != WHITE).mean() > 0.4
    again = read_manifest(cut_patches(data_set, tmp_path / "again", per_slide=6, size=96))
    assert [sample.id for sample in again.samples] == [sample.id for sample in table.samples]
    assert len({sample.id for sample in table.samples}) == len(table.samples)


@pytest.mark.parametrize("module", "anatomy cut marks section slides stained survey".split())
def test_each_file_says_that_it_is_made_up(module):
    text = importlib.import_module(f"histill.data.synthetic.{module}").__doc__.lower()
    assert "synthetic" in text
