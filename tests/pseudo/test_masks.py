"""From class maps and an image label to pixel labels, against a loop over pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest, Sample
from histill.core.masks import PseudoMask
from histill.core.storage import new_folder
from histill.pseudo.masks import MaskFolder, check_both_kinds, check_informative, pseudo_mask

CLASSES = Classes(("a", "b", "c"))


def slow(
    maps: np.ndarray, labels: list[int], background: int | None, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    k, h, w = maps.shape
    mask, confidence = np.zeros((h, w), np.uint8), np.zeros((h, w), np.float32)
    named = [i for i in range(k) if labels[i] and i != background]
    for y in range(h):
        for x in range(w):
            values = [maps[i, y, x] for i in named]
            best = max(values)
            mask[y, x] = named[values.index(best)]
            confidence[y, x] = best - sorted(values)[-2] if len(values) > 1 else best
            if background is not None and best < threshold:
                mask[y, x], confidence[y, x] = background, 1 - best / threshold
    return mask, confidence


@given(
    arrays(np.float32, (4, 3, 2), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])),
    st.lists(st.integers(0, 1), min_size=4, max_size=4).filter(lambda labels: any(labels[:3])),
    st.sampled_from([None, 3]),
)
def test_a_mask_is_what_a_loop_over_pixels_gives(maps: np.ndarray, labels: list[int], background: int | None) -> None:
    found = pseudo_mask(maps, np.array(labels, np.float32), background=background, background_threshold=0.25)
    mask, confidence = slow(maps, labels, background, 0.25)
    np.testing.assert_array_equal(found.labels, mask)
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-6)
    assert found.labels.dtype == np.uint8
    assert found.confidence.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_an_absent_class_wins_nothing_even_where_the_present_are_0_or_less(value: float) -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[1], maps[2] = value, value - 1
    assert (pseudo_mask(maps, np.array([0, 1, 1], np.float32)).labels == 1).all()


def test_of_equal_values_the_first_class_wins_with_no_confidence() -> None:
    found = pseudo_mask(np.full((3, 1, 1), 0.5, np.float32), np.array([0, 1, 1], np.float32))
    assert (found.labels[0, 0], found.confidence[0, 0]) == (1, 0)


def test_a_class_alone_is_as_sure_as_its_map() -> None:
    maps = np.array([[[0.2, 0.9]], [[0.7, 0.7]]], np.float32)
    found = pseudo_mask(maps, np.array([1, 0], np.float32))
    np.testing.assert_array_equal(found.labels, [[0, 0]])
    np.testing.assert_array_equal(found.confidence, maps[0])


def test_the_backgrounds_own_map_is_not_looked_at() -> None:
    maps = np.array([[[0.3, 0.1]], [[1.0, 1.0]]], np.float32)
    found = pseudo_mask(maps, np.array([1, 1], np.float32), background=1, background_threshold=0.25)
    np.testing.assert_array_equal(found.labels, [[0, 1]])
    np.testing.assert_allclose(found.confidence, [[0.3, 0.6]], rtol=1e-6)


def test_without_a_label_there_is_no_mask() -> None:
    with pytest.raises(HistillError, match="without a label"):
        pseudo_mask(np.zeros((2, 1, 1), np.float32), np.zeros(2, np.float32), background=1)


def test_a_label_that_names_the_background_alone_is_background_throughout() -> None:
    maps = np.array([[[0.9, 0.1]], [[0.0, 0.0]]], np.float32)
    found = pseudo_mask(maps, np.array([0, 1], np.float32), background=1)
    np.testing.assert_array_equal(found.labels, [[1, 1]])
    np.testing.assert_array_equal(found.confidence, [[1, 1]])


def table(*labels: tuple[str, ...], background: str | None = None) -> Manifest:
    samples = tuple(Sample(f"s{i}", Path("a.png"), labels=each) for i, each in enumerate(labels))
    return Manifest(samples, DatasetCard(classes=CLASSES.names, background=background), Path("t.csv"), "")


def test_a_table_on_which_all_masks_would_be_constant_is_refused() -> None:
    with pytest.raises(HistillError, match="constant") as caught:
        check_informative(table(("a",), ("b",)))
    assert caught.value.code == Exit.USAGE
    assert "background" in caught.value.mend
    check_informative(table(("a",), ("a", "b")))
    check_informative(table(("a",), ("b",), background="c"))


def test_lesions_are_learnt_from_images_with_and_without() -> None:
    card = DatasetCard(classes=("tumour", "rest"), background="rest")

    def table(*labels: str) -> Manifest:
        samples = tuple(Sample(f"s{i}", Path("a.png"), labels=(label,)) for i, label in enumerate(labels))
        return Manifest(samples, card, Path("t.csv"), "")

    check_both_kinds(table("tumour", "rest"))
    for labels, lack in ((("tumour", "tumour"), "without"), (("rest",), "with")):
        with pytest.raises(HistillError, match=f"no image {lack} tumour") as caught:
            check_both_kinds(table(*labels))
        assert caught.value.code == Exit.USAGE


def test_masks_come_back_from_their_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = [Sample("plain", Path("a.png")), Sample("odd/../name", Path("b.png"))]
    made: dict[tuple[str, str], PseudoMask] = {}
    with new_folder(tmp_path / "masks") as folder:
        store = MaskFolder(folder, ["low", "deep"])
        for sample in samples:
            for tap in ("low", "deep"):
                labels = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), (4, 5))
                mask = PseudoMask(labels, random.random((4, 5), np.float32))
                store.add(tap, sample, mask, CLASSES)
                made[sample.id, tap] = mask
        store.describe({"method": "m"})
    store = MaskFolder(tmp_path / "masks", ["low", "deep"])
    for sample in samples:
        stack = store.read(sample, np.zeros((4, 5, 3), np.uint8))
        assert stack.shape == (2, 4, 5)
        for i, tap in enumerate(("low", "deep")):
            np.testing.assert_array_equal(stack[i], made[sample.id, tap].labels)
            confidence = store.confidence(tap, sample)
            assert confidence.dtype == np.float32
            np.testing.assert_allclose(confidence, made[sample.id, tap].confidence, atol=0.5 / 255 + 1e-6)
    assert all(path.is_relative_to(tmp_path / "masks") for path in tmp_path.rglob("*.png"))
