"""Made-up slides with rare tumour: the share asked for, in foci large enough to fill a tile, and nothing else told."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histill.core.errors import Exit, HistillError
from histill.core.manifest import read_manifest
from histill.data.synthetic import foci, rare
from histill.data.synthetic.anatomy import Anatomy
from histill.data.synthetic.foci import Foci, grown
from histill.data.synthetic.rare import SHARES, tumour_share
from histill.data.synthetic.scene import FAT, GLAND, LYMPHOCYTES, NECROSIS, STROMA, TUMOUR, WHITE
from histill.data.synthetic.slides import SlidePlan, open_section, write_slides
from histill.data.synthetic.stain import SlideLook
from histill.data.synthetic.stained import render_slide_bank
from histill.formats.maps import open_labels

SIDE = 1800.0  # of a slide in micrometres
MPP = 2.0
TILE = 128.0  # of 256 px at 0.5 um/px


@pytest.fixture(scope="module")
def bank():
    return render_slide_bank(0, 2.0)


def map_of(name, tumour, side=SIDE, pitch=6.0):
    axis = np.arange(0, side, pitch)
    return Anatomy(0, name, side, side, tumour=tumour).window(axis, axis)


def share_of(labels):
    return np.count_nonzero(labels == TUMOUR) / np.count_nonzero(labels != WHITE)


@pytest.mark.parametrize(("name", "share"), [("a", SHARES[0]), ("b", 0.02), ("c", SHARES[1]), ("d", 0.1)])
def test_the_plan_holds_the_share(name, share):
    assert share_of(map_of(name, share).label) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(("name", "share"), [("a", SHARES[0]), ("d", SHARES[1])])
def test_the_truth_holds_1_to_3_percent(bank, name, share):
    side = round(SIDE / MPP)
    image, labels = open_section(SlidePlan(name, side, side, MPP, look=SlideLook(), tumour=share), bank).photograph(
        0, 0, side, side
    )
    assert 0.01 <= share_of(labels) <= 0.03
    assert image[labels == TUMOUR].mean() < image[labels == STROMA].mean() - 8


def test_without_tumour_there_is_none_and_nothing_that_comes_of_it(bank):
    side = round(SIDE / MPP)
    labels = open_section(SlidePlan("a", side, side, MPP, tumour=0.0), bank).photograph(0, 0, side, side)[1]
    assert not np.isin(labels, (TUMOUR, NECROSIS)).any()
    assert all((labels == tissue).any() for tissue in (STROMA, LYMPHOCYTES, GLAND, FAT))


def test_without_tumour_not_even_a_bud_is_left():
    anatomy = Anatomy(0, "a", SIDE, SIDE, tumour=0.0)
    nests = anatomy._textures["nests"]
    anatomy._textures["nests"] = replace(nests, values=3 * nests.values)  # as one draw in a million is
    axis = np.arange(0, SIDE, 12.0)
    window = anatomy.window(axis, axis)
    assert (window.depth[TUMOUR] > 0).any()
    assert not (window.label == TUMOUR).any()


def test_all_else_is_laid_out_the_same():
    """Where there is no tumour nothing tells of it: not fat, glands, the outline, nor the lymphocytes."""
    healthy, ill = map_of("b", 0.0), map_of("b", 0.02)
    for tissue in (FAT, GLAND):
        np.testing.assert_array_equal(healthy.depth[tissue], ill.depth[tissue])
    far = ill.depth[TUMOUR] < -60
    differ = (healthy.label != ill.label)[far]
    assert differ.mean() < 0.005
    crowds = [np.count_nonzero(each.label == LYMPHOCYTES) for each in (healthy, ill)]
    assert 0.5 < crowds[0] / crowds[1] < 2


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_some_tiles_are_mostly_tumour_and_few_are(name):
    pitch = TILE / 16
    labels = map_of(name, 0.02, 25 * TILE, pitch).label.reshape(25, 16, 25, 16)
    tumour, tissue = (labels == TUMOUR).mean(axis=(1, 3)), (labels != WHITE).mean(axis=(1, 3))
    rare_share = np.count_nonzero(tumour >= 0.5) / np.count_nonzero(tissue >= 0.1)
    assert 0 < rare_share < 0.04


@pytest.mark.parametrize(
    ("side", "share", "fewest", "most"), [(3000, 0.02, 1, 3), (12000, 0.02, 2, 6), (40000, 0.02, 30, 80)]
)
def test_foci_are_a_few_and_as_wide_as_they_should_be(side, share, fewest, most):
    pitch = max(20.0, side / 600)
    axis = np.arange(0, side, pitch)
    depth = np.minimum(axis, side - axis)
    depth = np.minimum.outer(depth, depth).astype(np.float32) - 200
    found = Foci(np.random.default_rng(3), share).outlines(axis, axis, depth)
    assert found.sum() == pytest.approx(foci.AROUND * share * (depth > 0).sum(), rel=0.1)
    assert not found[depth <= 0].any()
    parts, _ = ndimage.label(ndimage.binary_closing(found, iterations=2))
    spans = [max(s.stop - s.start for s in each) * pitch for each in ndimage.find_objects(parts)]
    large = [span for span in spans if span > 200]
    assert fewest <= len(large) <= most
    assert np.mean(large) > 250
    assert max(large) < 2200


@settings(max_examples=15)
@given(st.integers(0, 99), st.floats(0.001, 0.1), st.integers(1, 40), st.integers(1, 40))
def test_any_tissue_can_have_foci(seed, share, rows, columns):
    depth = np.random.default_rng(seed).normal(0, 300, (rows, columns)).astype(np.float32)
    y, x = np.arange(max(rows, 2)) * 20.0, np.arange(columns) * 20.0
    found = Foci(np.random.default_rng(seed), share).outlines(
        y[:rows] if rows > 1 else y, x, np.resize(depth, (len(y), columns))
    )
    assert found.shape == (len(y), columns)
    assert not found[np.resize(depth, found.shape) <= 0].any()


@settings(max_examples=6)
@given(st.floats(1, 900), st.floats(1, 900), st.sampled_from([0.0, 0.01, 0.1]))
def test_any_size_can_be_planned(width, height, share):
    window = Anatomy(0, "a", width, height, tumour=share).window(np.arange(0, 60, 3.0), np.arange(0, 60, 3.0))
    assert all(np.isfinite(depth).all() for depth in window.depth.values())


def test_a_slide_is_the_same_each_time_and_another_by_name():
    np.testing.assert_array_equal(map_of("a", 0.02).label, map_of("a", 0.02).label)
    assert (map_of("a", 0.02).label != map_of("b", 0.02).label).any()


def test_outlines_are_moved_until_the_share_is_met():
    assert grown(lambda by: (by + 50) / 100, 0.25, 100) == pytest.approx(-25, abs=0.1)
    assert grown(lambda by: 0.0, 0.25, 100) == pytest.approx(100, abs=0.1)
    assert grown(lambda by: 1.0, 0.25, 100) == pytest.approx(-100, abs=0.1)


def test_every_other_slide_of_each_split_has_tumour():
    for split in ("train", "val", "test"):
        shares = [tumour_share(0, f"{split}-{number}", split, number) for number in range(40)]
        ill = [share > 0 for share in shares]
        assert sum(ill) == 20
        assert all(one != other for one, other in pairwise(ill))
        drawn = [share for share in shares if share]
        assert SHARES[0] <= min(drawn) < max(drawn) <= SHARES[1]
        assert len(set(drawn)) == 20


@pytest.mark.parametrize("share", [-0.01, 0.5, float("nan")])
def test_shares_that_are_not_small_are_refused(share):
    with pytest.raises(HistillError, match="small foci") as error:
        open_section(SlidePlan("a", 100, 100, MPP, tumour=share))
    assert error.value.code == Exit.USAGE


def test_a_data_set_with_rare_tumour(tmp_path, bank):
    size = {"width": 350, "height": 300, "mpp": MPP, "seed": 1, "bank": bank, "rare": True}
    table = read_manifest(write_slides(tmp_path / "set", count=6, **size))
    assert table.card.classes == ("tumour", "normal")
    assert table.card.background == "normal"
    assert table.card.synthetic
    by_split = {"train": [], "val": [], "test": []}
    for sample in table.samples:
        with open_labels(sample.mask) as truth:
            labels = truth.read(0, 0, 350, 300)
            assert truth.classes.names[TUMOUR] == table.card.mask_values[str(TUMOUR)] == "tumour"
        assert sample.labels == (("tumour",) if (labels == TUMOUR).any() else ("normal",))
        by_split[sample.split].append(sample.labels[0])
    assert by_split == {"train": ["tumour", "normal", "tumour", "normal"], "test": ["normal"], "val": ["tumour"]}


@pytest.mark.parametrize("module", [foci, rare])
def test_each_file_says_that_it_is_made_up(module):
    assert "synthetic" in module.__doc__.lower()
