"""Augmentation: image and masks move as one, and all follows from the generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.data.augment import Augmentation, augment, scale_density


def marked(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """An image each of whose pixels is its own, and two masks that repeat its red and green."""
    places = np.arange(h * w).reshape(h, w).astype(np.uint8)
    image = np.stack([places, places[::-1], places * 0], axis=-1)
    return image, np.stack([image[..., 0], image[..., 1]])


@given(st.integers(0, 500), st.sampled_from([(4, 4), (3, 5)]))
def test_masks_move_with_the_image(seed: int, size: tuple[int, int]) -> None:
    image, masks = marked(*size)
    found, moved = augment(image, masks, Augmentation(flip=0.5, turn=True), np.random.default_rng(seed))
    assert moved is not None
    assert found.shape == (*size, 3)
    np.testing.assert_array_equal(moved[0], found[..., 0])
    np.testing.assert_array_equal(moved[1], found[..., 1])
    assert sorted(found[..., 0].ravel()) == sorted(image[..., 0].ravel())
    assert found.flags.c_contiguous
    assert moved.flags.c_contiguous


def views(settings: Augmentation, size: tuple[int, int]) -> int:
    image, _ = marked(*size)
    return len({augment(image, None, settings, np.random.default_rng(seed))[0].tobytes() for seed in range(200)})


def test_every_view_comes_up_and_no_other() -> None:
    assert views(Augmentation(flip=0.5), (4, 4)) == 4
    assert views(Augmentation(flip=0.5, turn=True), (4, 4)) == 8
    assert views(Augmentation(flip=0.0, turn=True), (3, 5)) == 2
    assert views(Augmentation(flip=0.0), (4, 4)) == 1


def test_blur_and_stain_leave_masks_alone() -> None:
    image, masks = marked(12, 12)
    settings = Augmentation(flip=0, blur=1, stain=0.3)
    found, kept = augment(image, masks, settings, np.random.default_rng(3))
    assert not np.array_equal(found, image)
    np.testing.assert_array_equal(kept, masks)


def test_the_input_is_not_changed_and_equal_generators_give_equal_bytes() -> None:
    image, masks = marked(8, 8)
    before = image.tobytes(), masks.tobytes()
    settings = Augmentation(flip=0.5, turn=True, blur=0.5, stain=0.2)
    for seed in range(20):
        first = augment(image, masks, settings, np.random.default_rng(seed))
        second = augment(image, masks, settings, np.random.default_rng(seed))
        assert [each.tobytes() for each in first if each is not None] == [
            each.tobytes() for each in second if each is not None
        ]
    assert (image.tobytes(), masks.tobytes()) == before


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.8, 1.0, 1.3)])
def test_scaled_density_is_a_power_of_each_channel(factors: tuple[float, float, float]) -> None:
    image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)  # [256, 1, 3]
    found = scale_density(image, np.array(factors))
    for value in range(256):
        for channel in range(3):
            assert found[value, 0, channel] == round(255 * (value / 255) ** factors[channel])
    assert found[[0, 255], 0].tolist() == [[0] * 3, [255] * 3]


def test_varying_stains_is_off_by_default_and_then_draws_nothing() -> None:
    image, masks = marked(16, 16)
    assert Augmentation().hed == 0
    everything = Augmentation(flip=0.5, turn=True, blur=0.5, stain=0.2)
    for seed in range(20):
        random = np.random.default_rng(seed)
        augment(image, masks, everything, random)
        drawn = random.random()
        # What came before HED, draw by draw: the generator stands where it stood then.
        random = np.random.default_rng(seed)
        random.random(), random.random(), random.integers(4)
        if random.random() < 0.5:
            random.uniform(0.1, 2.0)
        random.uniform(-1, 1, size=3)
        assert drawn == random.random()


def test_varying_stains_changes_colours_only_and_leaves_white() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 220, (40, 30, 3)).astype(np.uint8)
    image[:5] = 255
    masks = rng.integers(0, 3, (2, 40, 30)).astype(np.uint8)
    found, kept = augment(image, masks, Augmentation(flip=0, hed=0.3), np.random.default_rng(1))
    assert kept is not None
    assert (found.dtype, found.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(kept, masks)
    np.testing.assert_array_equal(found[:5], 255)
    assert np.abs(found[5:].astype(int) - image[5:]).mean() > 3


def test_stains_vary_after_all_else_and_by_their_strength() -> None:
    image = np.random.default_rng(0).integers(60, 220, (20, 20, 3)).astype(np.uint8)

    def far(strength: float) -> float:
        changes = [
            np.abs(augment(image, None, Augmentation(hed=strength), np.random.default_rng(seed))[0].astype(int) - plain)
            for seed in range(30)
            for plain in [augment(image, None, Augmentation(), np.random.default_rng(seed))[0]]
        ]
        return float(np.mean(changes))

    assert 0 < far(0.05) < far(0.1) < far(0.2) < 15


@given(st.integers(0, 500), st.sampled_from([0.0, 0.1, 1.0]))
def test_each_view_is_whole_whatever_is_drawn(seed: int, strength: float) -> None:
    image, masks = marked(6, 5)
    settings = Augmentation(flip=0.5, turn=True, hed=strength)
    found, moved = augment(image, masks, settings, np.random.default_rng(seed))
    again, _ = augment(image, masks, settings, np.random.default_rng(seed))
    assert moved is not None
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, again)
    if strength == 0:
        np.testing.assert_array_equal(moved[0], found[..., 0])
