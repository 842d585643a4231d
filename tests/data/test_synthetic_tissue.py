"""Made-up tissue: the same bytes every time, a truth that fits the picture, physics as the book has it."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from histill.core.errors import HistillError
from histill.core.manifest import read_manifest
from histill.core.masks import read_indexed
from histill.core.seeds import generator
from histill.data.images import read_mask
from histill.data.synthetic import patches, scene, stain
from histill.data.synthetic.dataset import LESIONS, TISSUE, lesion_of, tissues_of, write_patches
from histill.data.synthetic.fields import mosaic, scatter, smooth
from histill.data.synthetic.nuclei import FIBROBLAST, LYMPHOCYTE, Canvas, draw
from histill.data.synthetic.patches import CLASSES, MOSAICS, draw_slide, render_bank, render_patch, synthetic_patches
from histill.data.synthetic.stain import SlideLook, absorb, draw_look, expose, jpeg, through_jpeg
from histill.data.synthetic.tissues import REACH, render_tile

COARSE = 1.0  # micrometres per pixel: a bank of a quarter of the size


@pytest.fixture(scope="module")
def bank():
    return render_bank(0, COARSE)


@pytest.fixture(scope="module")
def sixty(bank):
    known = [draw_slide(0, f"slide-{number:02d}") for number in range(8)]
    return [render_patch(bank, known[i % 8], generator(0, "patch", i), 112) for i in range(60)]


def test_the_same_seed_gives_the_same_bytes_whatever_the_count(bank, monkeypatch):
    monkeypatch.setattr(patches, "render_bank", lambda seed, mpp: bank)
    short = list(synthetic_patches(2, seed=5, size=64, slides=3, mpp=COARSE))
    long = list(synthetic_patches(4, seed=5, size=64, slides=3, mpp=COARSE))
    other = list(synthetic_patches(2, seed=6, size=64, slides=3, mpp=COARSE))
    assert len(long) == 4
    for one, same, different in zip(short, long, other, strict=False):
        assert one.image.tobytes() == same.image.tobytes()
        assert one.truth.tobytes() == same.truth.tobytes()
        assert one.nuclei.tobytes() == same.nuclei.tobytes()
        assert one.slide == same.slide
        assert one.image.tobytes() != different.image.tobytes()


def test_a_tile_depends_on_its_own_name_alone(bank):
    again = render_tile("gland", 1, seed=0, side=512, mpp=COARSE)
    kept = bank.tiles[CLASSES.index("gland")][1]
    assert again.full.tobytes() == kept.full.tobytes()
    assert again.offset.tobytes() == kept.offset.tobytes()


def test_patches_have_the_shapes_and_values_they_promise(sixty):
    for patch in sixty:
        assert patch.image.shape == (112, 112, 3)
        assert patch.image.dtype == patch.truth.dtype == np.uint8
        assert patch.truth.shape == (112, 112)
        assert patch.truth.max() < len(CLASSES)
        assert patch.nuclei.shape[1] == 3
        assert (patch.nuclei >= 0).all()
        assert (patch.nuclei < [112, 112, CLASSES.index("white")]).all()


def test_every_class_appears_and_none_takes_over(sixty):
    shares = np.mean([np.bincount(patch.truth.ravel(), minlength=7) / patch.truth.size for patch in sixty], axis=0)
    assert (shares > 0.01).all()
    assert shares.max() < 0.7


def test_white_is_bright_and_stained_tissue_darker(sixty):
    white, stroma, tumour, lymphocytes = (
        np.concatenate([patch.image[patch.truth == CLASSES.index(name)].mean(axis=1) for patch in sixty])
        for name in ("white", "stroma", "tumour", "lymphocytes")
    )
    assert np.median(white) > 220
    assert np.median(stroma) < np.median(white) - 30
    assert np.median(lymphocytes) < np.median(stroma)
    assert np.median(tumour) < np.median(stroma)


def test_mean_colours_overlap_between_slides(sixty):
    """Else a threshold on colour would do, and no method could be told from another."""

    def means(name):
        return np.array(
            [p.image[p.truth == CLASSES.index(name)].mean(axis=0) for p in sixty if name in patches.present(p.truth)]
        )

    for one, other in (("tumour", "lymphocytes"), ("tumour", "gland"), ("stroma", "necrosis")):
        low, high = np.quantile(means(one), (0.1, 0.9), axis=0)  # [3], [3]
        assert ((low < means(other)) & (means(other) < high)).all(axis=1).mean() > 0.2


def test_lymphocytes_lie_densest_and_fat_has_hardly_a_nucleus(bank):
    dense = {name: bank.tiles[CLASSES.index(name)][0].centres.mean() / COARSE**2 for name in CLASSES.names[:-1]}
    order = sorted(dense, key=dense.__getitem__, reverse=True)
    assert order[0] == "lymphocytes"
    assert order[-1] == "fat"
    assert dense["tumour"] > 1.8 * dense["stroma"]
    assert 0.008 < dense["lymphocytes"] < 0.025  # per square micrometre: some 8 micrometres apart
    assert 0.003 < dense["tumour"] < 0.010


def test_nuclei_are_where_the_truth_says(sixty):
    """A nucleus is counted for the tissue that it lies in; strays may lie in others, but few."""
    right = np.concatenate([p.truth[p.nuclei[:, 0], p.nuclei[:, 1]] == p.nuclei[:, 2] for p in sixty])
    assert right.mean() > 0.85
    haematoxylin = [p.image[p.nuclei[:, 0], p.nuclei[:, 1], 0] for p in sixty]
    assert np.median(np.concatenate(haematoxylin)) < 140


def test_objects_are_whole_or_absent(bank):
    """In a map that is half fat, each adipocyte is shown altogether or not at all."""
    size, step, margin = 128, 2, 64
    scores = np.full((7, 128, 128), -np.inf, np.float32)
    scores[scene.STROMA] = 0
    scores[scene.FAT] = np.linspace(-1, 1, 128)[None, :]
    winner = scores.argmax(axis=0)
    seeded = winner == np.arange(7)[:, None, None]
    half = scene.Scene(scores, seeded, step, margin)
    _, truth, _ = patches.compose(bank, half, size, size, dict.fromkeys(bank.tiles, (0, 40, 70)))
    tile = bank.tiles[scene.FAT][0]
    rows, columns = np.indices((size, size))
    offset = tile.offset[40 : 40 + size, 70 : 70 + size]
    seeds = (rows + offset[..., 0]) * 10_000 + columns + offset[..., 1]
    shown = truth == scene.FAT
    assert 0.2 < shown.mean() < 0.8
    for seed in np.unique(seeds):
        assert len(np.unique(shown[seeds == seed])) == 1


def test_no_object_reaches_farther_than_the_margin(bank):
    for tiles in bank.tiles.values():
        for tile in tiles:
            assert np.abs(tile.offset[tile.owned]).max() * COARSE <= REACH


def test_mosaics_stand_on_stroma(sixty):
    for patch in sixty:
        found = set(np.unique(patch.truth))
        if found & set(MOSAICS) and len(found) == 2 and scene.WHITE not in found:
            assert scene.STROMA in found


def test_beer_and_lambert_pixel_by_pixel():
    look = draw_look(3, "slide")
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0, 3, (5, 4, 2)).astype(np.float32)
    light = absorb(amounts, look)
    for row in range(5):
        for column in range(4):
            for colour in range(3):
                density = sum(
                    float(amounts[row, column, s]) * look.strength[s] * (look.haematoxylin, look.eosin)[s][colour]
                    for s in range(2)
                )
                assert light[row, column, colour] == pytest.approx(look.white[colour] * np.exp(-density), rel=1e-4)


def test_empty_glass_is_the_white_point():
    look = SlideLook(noise=0.0)
    image = expose(np.zeros((16, 16, 2), np.float32), look, 0.5, np.random.default_rng(0))
    assert (image == np.round(look.white)).all()


@given(st.integers(0, 10_000))
def test_looks_are_possible(seed):
    look = draw_look(seed, "slide")
    assert look == draw_look(seed, "slide")
    for vector in (look.haematoxylin, look.eosin):
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert min(vector) >= 0
    assert look.haematoxylin[0] > look.eosin[0]  # haematoxylin takes the red, or it would not be blue
    assert all(200 < light <= 254 for light in look.white)
    assert 1 <= look.quality <= 100


def test_jpeg_is_a_jpeg_of_that_image():
    image = np.full((32, 32, 3), (200, 120, 60), np.uint8)
    assert jpeg(image, 90).startswith(b"\xff\xd8")
    assert np.abs(through_jpeg(image, 95).astype(int) - image).max() <= 3


def test_present_counts_from_the_least_share_on():
    truth = np.full((10, 10), scene.STROMA, np.uint8)
    truth[0, :5] = scene.TUMOUR
    truth[1, :4] = scene.FAT
    assert patches.present(truth) == ("tumour", "stroma")
    assert patches.present(truth, least=0.04) == ("tumour", "stroma", "fat")


def test_what_is_said_of_a_patch():
    truth = np.full((10, 10), scene.STROMA, np.uint8)
    assert (tissues_of(truth), lesion_of(truth)) == (("stroma",), ("normal",))
    truth[0, :4] = scene.TUMOUR  # 4 %: neither with a lesion nor without
    assert (tissues_of(truth), lesion_of(truth)) == (("stroma",), ())
    truth[0, 4] = scene.TUMOUR
    assert (tissues_of(truth), lesion_of(truth)) == (("tumour", "stroma"), ("tumour",))
    truth[:] = scene.WHITE
    assert (tissues_of(truth), lesion_of(truth)) == ((), ("normal",))


@pytest.fixture
def from_sixty(sixty, monkeypatch):
    monkeypatch.setattr("histill.data.synthetic.dataset.synthetic_patches", lambda count, **_: iter(sixty[:count]))


@pytest.mark.usefixtures("from_sixty")
def test_lesions_are_the_same_patches_otherwise_labelled(sixty, tmp_path):
    counts = {"train": 60, "val": 0, "test": 0}
    tissue = read_manifest(write_patches(tmp_path / "tissue", TISSUE, **counts))
    lesions = read_manifest(write_patches(tmp_path / "lesions", LESIONS, **counts))
    by_id = {sample.id: sample for sample in tissue.samples}
    assert lesions.classes.names == ("tumour", "normal")
    assert lesions.classes.names[lesions.classes.lesion] == "tumour"
    assert lesions.card.synthetic
    shares = [(patch.truth == scene.TUMOUR).mean() for patch in sixty]
    told = {f"train-{i:05d}" for i, share in enumerate(shares) if share == 0 or share >= 0.05}
    assert {sample.id for sample in lesions.samples} == told
    assert len(list((tmp_path / "lesions" / "masks").iterdir())) == len(told)
    for sample in lesions.samples:
        share = shares[int(sample.id[-5:])]
        assert sample.labels == (("tumour",) if share else ("normal",))
        assert sample.path.read_bytes() == by_id[sample.id].path.read_bytes()
        mask = read_mask(sample, lesions.card, (112, 112))
        np.testing.assert_array_equal(mask == 0, read_indexed(by_id[sample.id].mask) == scene.TUMOUR)
        assert set(np.unique(mask)) <= {0, 1}  # glass too is known: it is normal
    having = np.mean([sample.labels == ("tumour",) for sample in lesions.samples])
    assert 0.35 < having < 0.65


def test_fields_wrap_round_with_mean_zero_and_deviation_one():
    field = smooth((128, 96), 12, np.random.default_rng(0))
    assert field.shape == (128, 96)
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, rel=1e-3)
    assert np.abs(field[0] - field[-1]).max() < 3 * np.abs(np.diff(field, axis=0)).max()


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(3, 20))
def test_scattered_points_keep_their_distance_and_leave_no_room(seed, distance):
    points = scatter(100, distance, np.random.default_rng(seed))
    nearest = cKDTree(points, boxsize=100).query(points, k=2)[0][:, 1]
    assert nearest.min() >= distance
    everywhere = np.stack(np.meshgrid(np.arange(100.0), np.arange(100.0)), axis=-1).reshape(-1, 2)
    assert (cKDTree(points, boxsize=100).query(everywhere)[0] < distance).mean() > 0.9


def test_mosaic_without_bend_is_voronoi():
    points = scatter(64, 12, np.random.default_rng(0))
    cells = mosaic(points, 64, 2.0, 0.0, np.random.default_rng(0))
    for row, column in ((0, 0), (10, 50), (63, 31)):
        gap = np.abs(points - (row, column))
        gap = np.minimum(gap, 64 - gap)  # the shorter way round
        assert cells.owner[row, column] == np.hypot(*gap.T).argmin()


def test_a_nucleus_on_the_edge_comes_in_on_the_other_side():
    edge, middle = Canvas.blank(64, 0.5), Canvas.blank(64, 0.5)
    for canvas, point in ((edge, (0.0, 63.0)), (middle, (32.0, 31.0))):
        draw(canvas, LYMPHOCYTE, np.array([point]), np.zeros(1), np.random.default_rng(1))
    np.testing.assert_array_equal(np.roll(edge.amounts, (32, 32), (0, 1)), middle.amounts)
    np.testing.assert_array_equal(np.roll(edge.offset, (32, 32), (0, 1)), middle.offset)
    assert edge.centres[0, 63]


def test_spindles_lie_along_their_angle():
    canvas = Canvas.blank(96, 0.5)
    draw(canvas, FIBROBLAST, np.array([[48.0, 48.0]]), np.array([np.pi / 2]), np.random.default_rng(2))
    tall, wide = (np.ptp(axis) for axis in np.nonzero(canvas.owned))
    assert tall > 2 * wide


def test_nuclei_have_the_size_of_their_kind():
    points = np.stack(np.meshgrid(np.arange(20, 620, 40.0), np.arange(20, 620, 40.0)), axis=-1).reshape(-1, 2)
    canvas = Canvas.blank(640, 0.5)
    draw(canvas, LYMPHOCYTE, points, np.zeros(len(points)), np.random.default_rng(0))
    across = 2 * np.sqrt(canvas.owned.sum() / len(points) / np.pi) * 0.5  # micrometres
    assert 6 < across < 8


def test_spacing_out_of_range_is_refused():
    with pytest.raises(HistillError, match="micrometres per pixel"):
        render_bank(0, 5.0)


@pytest.mark.parametrize("module", ["", ".fields", ".nuclei", ".patches", ".scene", ".stain", ".tissues"])
def test_each_file_says_that_it_is_made_up(module):
    text = importlib.import_module(f"histill.data.synthetic{module}").__doc__.lower()
    assert "synthetic" in text or "made-up" in text


def test_noise_differs_between_patches_but_not_between_runs():
    flat = np.zeros((8, 8, 2), np.float32)
    one, same, other = (stain.expose(flat, SlideLook(), 0.5, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
