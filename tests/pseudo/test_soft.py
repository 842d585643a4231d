"""Soft maps: how they become masks, and that they come back from their folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Sample
from histill.core.storage import new_folder
from histill.pseudo.masks import open_masks
from histill.pseudo.soft import SoftFolder, Thresholds

FIRST, SECOND = Classes(("lesion", "rest"), background="rest"), Classes(("rest", "lesion"), background="rest")
PAPER = Thresholds(foreground=0.5, background=0.25)


@given(
    arrays(np.float32, (3, 4), elements=st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.49, 0.5, 0.51, 1.0])),
    st.booleans(),
    st.sampled_from([FIRST, SECOND]),
)
def test_a_mask_is_what_a_loop_over_pixels_gives(soft: np.ndarray, has_lesion: bool, classes: Classes) -> None:
    lesion, rest = classes.index("lesion"), classes.index("rest")
    silent = not any(value >= 0.5 for value in soft.ravel())
    expected = np.zeros((3, 4), np.uint8)
    for y in range(3):
        for x in range(4):
            value = soft[y, x]
            known = lesion if value >= 0.5 else rest if value <= 0.25 else IGNORE
            expected[y, x] = rest if not has_lesion else IGNORE if silent else known
    found = PAPER.mask(soft, classes, has_lesion=has_lesion)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_an_image_without_the_lesion_is_background_whatever_its_map_says() -> None:
    assert (PAPER.mask(np.ones((2, 3), np.float32), FIRST, has_lesion=False) == 1).all()


def test_an_empty_map_of_an_image_with_the_lesion_says_nothing() -> None:
    assert (PAPER.mask(np.full((2, 3), 0.1, np.float32), FIRST, has_lesion=True) == IGNORE).all()


def test_a_full_map_stands() -> None:
    assert (PAPER.mask(np.full((2, 3), 0.9, np.float32), FIRST, has_lesion=True) == 0).all()


@pytest.mark.parametrize("background", [0.5, 0.7])
def test_thresholds_in_the_wrong_order_are_refused(background: float) -> None:
    with pytest.raises(HistillError, match="cannot be lesion") as caught:
        Thresholds(0.5, background)
    assert caught.value.code == Exit.USAGE


def test_maps_come_back_from_their_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = [
        Sample("plain", Path("a.png"), labels=("lesion",)),
        Sample("odd/../name", Path("b.png"), labels=("lesion",)),
        Sample("without", Path("c.png"), labels=("rest",)),
    ]
    made: dict[tuple[str, str], np.ndarray] = {}
    with new_folder(tmp_path / "masks") as folder:
        store = SoftFolder(folder, ["global", "local"], FIRST, PAPER)
        for sample in samples:
            for tap in store.taps:
                made[sample.id, tap] = random.random((4, 5), np.float32)
                store.add(tap, sample, made[sample.id, tap])
        store.describe({"method": "m"})
    store = SoftFolder(tmp_path / "masks", ["global", "local"], FIRST, PAPER)
    for sample in samples:
        stack = store.read(sample, np.zeros((4, 5, 3), np.uint8))
        assert stack.shape == (2, 4, 5)
        assert stack.dtype == np.uint8
        for i, tap in enumerate(store.taps):
            soft = store.soft(tap, sample)
            assert soft.dtype == np.float32
            # To the nearest of 256 steps: nothing is cut off.
            np.testing.assert_allclose(soft, made[sample.id, tap], atol=0.5 / 255 + 1e-6)
            assert len(np.unique(soft)) > 2
            expected = PAPER.mask(soft, FIRST, has_lesion=sample.id != "without")
            np.testing.assert_array_equal(stack[i], expected)
            np.testing.assert_array_equal(store.labels(tap, sample), expected)
        assert store.holds(sample)
    assert not store.holds(Sample("other", Path("d.png")))
    about = json.loads((tmp_path / "masks" / "provenance.json").read_bytes())
    assert about == {
        "streams": ["global", "local"],
        "classes": ["lesion", "rest"],
        "rest": "rest",
        "foreground": 0.5,
        "background": 0.25,
        "method": "m",
    }
    opened = open_masks(tmp_path / "masks")
    assert isinstance(opened, SoftFolder)
    assert opened.taps == ("global", "local")
    for sample in samples:
        np.testing.assert_array_equal(opened.labels("local", sample), store.labels("local", sample))
    assert all(path.is_relative_to(tmp_path / "masks") for path in tmp_path.rglob("*.png"))
