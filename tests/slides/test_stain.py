"""Stains: unmixed and mixed again, found in made-up tissue, and made those of another slide."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.data.synthetic.stain import EOSIN, HAEMATOXYLIN, SlideLook, absorb, draw_look
from histill.slides.base import Level, Slide, SlideFacts, Spacing
from histill.slides.open import open_slide
from histill.slides.stain import (
    HED,
    MACENKO,
    REINHARD,
    Macenko,
    Reinhard,
    fit_normaliser,
    hed,
    rgb,
    tissue_pixels,
    vary,
)
from histill.slides.tissue import Tissue, find_tissue

COLOURS = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 18, 3).astype(np.uint8)
"""Colours from all over the cube."""


def amounts(seed: int = 0, shape: tuple[int, int] = (200, 200)) -> np.ndarray:
    """Haematoxylin and eosin as in tissue: each varies, and some pixels hold nearly one alone."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.gamma(0.7, 0.7, shape), rng.gamma(1.5, 0.3, shape)], axis=-1).astype(np.float32)


def tissue_of(look: SlideLook, seed: int = 0) -> np.ndarray:
    return np.clip(absorb(amounts(seed), look) + 0.5, 0, 255).astype(np.uint8)


def angle(one: object, other: object) -> float:
    """Between two vectors, in degrees."""
    one, other = (np.asarray(each) / np.linalg.norm(each) for each in (one, other))
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


def test_hed_is_undone_by_rgb() -> None:
    np.testing.assert_array_equal(rgb(hed(COLOURS)), COLOURS)
    assert hed(COLOURS).dtype == np.float32


def test_hed_is_beer_lambert_in_ruifroks_vectors() -> None:
    np.testing.assert_allclose(np.linalg.norm(HED, axis=1), 1)
    np.testing.assert_allclose(HED[0] / HED[0, 0], np.array([0.65, 0.704, 0.286]) / 0.65)
    image = np.array([[[255, 255, 255], [200, 100, 50], [0, 0, 0]]], np.uint8)
    for pixel, found in zip(image[0], hed(image)[0], strict=True):
        density = -np.log((pixel.astype(float) + 1) / 256)
        np.testing.assert_allclose(found @ HED, density, atol=1e-4)
    assert rgb(np.array([[[0, 0, 0], [1.0, 0, 0]]], np.float32)).tolist() == [
        [[255, 255, 255], np.rint(256 * np.exp(-HED[0]) - 1).astype(int).tolist()]
    ]


def test_varied_by_nothing_is_the_same_and_white_stays_white() -> None:
    np.testing.assert_array_equal(vary(COLOURS, np.ones(3), np.zeros(3)), COLOURS)
    white = np.full((4, 4, 3), 255, np.uint8)
    for sign in (-1, 1):
        np.testing.assert_array_equal(vary(white, np.array([1.3, 0.7, 1.2]), sign * np.full(3, 0.2)), white)
    glass = np.full((4, 4, 3), 243, np.uint8)
    assert np.abs(vary(glass, np.array([1.2, 0.8, 1.2]), np.full(3, 0.05)).astype(int) - glass).max() <= 5


def test_varied_stains_are_scaled_and_shifted() -> None:
    # Between light and dark, where rounding and clipping say little.
    image = rgb(np.random.default_rng(0).uniform(0.1, 0.5, (30, 30, 3)).astype(np.float32))
    before = hed(image)
    after = hed(vary(image, np.array([1.2, 0.9, 1.1]), np.array([0.05, 0.02, -0.04])))
    faded = (1 - image[..., 1:2] / 255.0) * [0.05, 0.02, -0.04]
    np.testing.assert_allclose(after, before * [1.2, 0.9, 1.1] + faded, atol=0.04)


@pytest.mark.parametrize("seed", range(4))
def test_macenko_finds_the_stains_that_were_put_in(seed: int) -> None:
    look = draw_look(seed, "slide")
    fit = Macenko.fit(tissue_of(look), look.white)
    assert angle(fit.haematoxylin, look.haematoxylin) < 3
    assert angle(fit.eosin, look.eosin) < 3
    wanted = np.percentile(amounts().reshape(-1, 2), 99, axis=0) * look.strength
    np.testing.assert_allclose(fit.strength, wanted, rtol=0.15)
    # Glass and the order of pixels say nothing.
    pixels = np.random.default_rng(0).permutation(tissue_of(look).reshape(-1, 3))
    with_glass = np.concatenate([np.full((10_000, 3), look.white).astype(np.uint8), pixels])
    again = Macenko.fit(with_glass, look.white)
    np.testing.assert_allclose(again.haematoxylin, fit.haematoxylin, atol=1e-6)
    np.testing.assert_allclose(again.strength, fit.strength, atol=1e-6)


def test_macenko_unmixes_and_mixes_without_loss() -> None:
    fit = Macenko.fit(tissue_of(SlideLook()), SlideLook().white)
    np.testing.assert_array_equal(fit.mix(fit.unmix(COLOURS)), COLOURS)
    one = fit.unmix(fit.mix(np.array([[[0.8, 0.3, 0.0]]], np.float32)))
    np.testing.assert_allclose(one, [[[0.8, 0.3, 0.0]]], atol=0.02)


def test_a_slide_made_like_itself_changes_only_across_its_plane() -> None:
    look = SlideLook()
    image = tissue_of(look)
    fit = Macenko.fit(image, look.white)
    assert np.abs(fit.normaliser(fit)(image).astype(int) - image).mean() < 1.5


def test_macenko_gives_a_slide_the_targets_stains() -> None:
    look = draw_look(3, "slide")
    image = tissue_of(look)
    done = Macenko.fit(image, look.white).normaliser()(image)
    assert (done.shape, done.dtype) == (image.shape, np.uint8)
    fit = Macenko.fit(done, MACENKO.white)
    assert angle(fit.haematoxylin, MACENKO.haematoxylin) < 3
    assert angle(fit.eosin, MACENKO.eosin) < 3
    np.testing.assert_allclose(fit.strength, MACENKO.strength, rtol=0.08)
    white = np.full((2, 2, 3), np.rint(look.white), np.uint8)
    assert np.abs(Macenko.fit(image, look.white).normaliser()(white).astype(int) - 245).max() <= 1


@pytest.mark.parametrize(("method", "left"), [(Macenko, 0.15), (Reinhard, 0.75)])
def test_two_slides_of_one_tissue_come_to_look_alike(method: type[Macenko] | type[Reinhard], left: float) -> None:
    looks = (
        SlideLook(HAEMATOXYLIN[0], EOSIN[0], strength=(0.7, 1.3)),
        SlideLook(HAEMATOXYLIN[1], EOSIN[1], strength=(1.3, 0.8), white=(228.0, 226.0, 231.0)),
    )
    one, other = (tissue_of(look) for look in looks)
    first, second = (
        method.fit(image, look.white).normaliser()(image) for image, look in zip((one, other), looks, strict=True)
    )
    apart, together = np.abs(one.astype(int) - other).mean(), np.abs(first.astype(int) - second).mean()
    assert together < left * apart


def test_reinhard_gives_stained_pixels_the_targets_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(90, 190, (100, 100, 3)).astype(np.uint8)  # dense enough to be changed in full
    fit = Reinhard.fit(image)
    target = Reinhard(mean=(-0.5, 0.02, 0.01), deviation=(0.05, 0.02, 0.03))
    done = Reinhard.fit(fit.normaliser(target)(image), target.white)
    np.testing.assert_allclose(done.mean, target.mean, atol=0.002)
    np.testing.assert_allclose(done.deviation, target.deviation, rtol=0.02)
    assert np.abs(fit.normaliser(fit)(image).astype(int) - image).max() <= 1


def test_reinhard_is_the_papers_arithmetic() -> None:
    pixel = np.array([[[120, 80, 160]]], np.uint8)
    cones = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]) @ (
        (pixel[0, 0].astype(float) + 1) / 256
    )
    long, middle, short = np.log10(cones)
    wanted = [
        (long + middle + short) / 3**0.5,
        (long + middle - 2 * short) / 6**0.5,
        (long - middle) / 2**0.5,
    ]
    np.testing.assert_allclose(Reinhard.fit(pixel.repeat(600, axis=0)).mean, wanted, atol=1e-12)


def test_reinhard_gives_glass_the_targets_colour_and_no_tint() -> None:
    fit = Reinhard((-0.3, 0.05, 0.0), (0.1, 0.01, 0.02), white=(240.0, 238.0, 242.0))
    glass = np.array([[[240, 238, 242], [255, 255, 255]]], np.uint8)
    assert fit.normaliser()(glass).tolist() == [[[245, 245, 245], [255, 255, 255]]]


@pytest.mark.parametrize("method", [Macenko, Reinhard])
def test_too_little_tissue_is_refused(method: type[Macenko] | type[Reinhard]) -> None:
    for pixels in (np.zeros((0, 3), np.uint8), np.full((50, 50, 3), 250, np.uint8), tissue_of(SlideLook())[:5, :5]):
        with pytest.raises(HistillError, match="pixels are stained") as error:
            method.fit(pixels)
        assert error.value.code == Exit.INPUT
        assert "without stain normalisation" in error.value.mend


def test_tissue_of_one_colour_has_no_two_stains_but_a_mean() -> None:
    flat = np.full((60, 60, 3), (180, 90, 140), np.uint8)
    with pytest.raises(HistillError, match="one colour"):
        Macenko.fit(flat)
    # Lighter and darker, but one dye.
    dye = np.exp(-np.linspace(0.5, 2, 3600)[:, None] * [0.3, 0.8, 0.5]) * 255
    with pytest.raises(HistillError, match="one colour"):
        Macenko.fit(np.rint(dye).astype(np.uint8))
    done = Reinhard.fit(flat).normaliser()(flat)
    np.testing.assert_allclose(Reinhard.fit(done, REINHARD.white).mean, REINHARD.mean, atol=0.01)


@given(st.integers(0, 500))
def test_any_tissue_gives_an_image_of_the_same_shape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    tint = (image * np.array([0.8, 0.6, 0.9])).astype(np.uint8)
    for normalise in (Macenko.fit(tint).normaliser(), Reinhard.fit(image).normaliser()):
        done = normalise(image)
        assert (done.shape, done.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(normalise(image[:7, 3:9]), done[:7, 3:9])


class Painted(Slide):
    """A slide of one level in memory."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        level = Level(image.shape[1], image.shape[0], 1.0)
        super().__init__(Path("a.svs"), SlideFacts("made", (level,), Spacing(1.0, "user")))

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        return self.image[y : y + h, x : x + w].copy()

    def _close(self) -> None:
        pass


def on_glass(look: SlideLook) -> np.ndarray:
    """Tissue of 400 x 400 px in the middle of empty glass."""
    image = np.full((700, 800, 3), np.rint(look.white), np.uint8)
    image[150:550, 200:600] = np.clip(absorb(amounts(5, (400, 400)), look) + 0.5, 0, 255)
    return image


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_slide_is_fitted_once_from_its_tissue(method: str) -> None:
    look = draw_look(4, "slide")
    slide = Painted(on_glass(look))
    tissue = find_tissue(slide)
    normalise = fit_normaliser(method, slide, tissue)
    tile = slide.image[200:300, 250:350]
    fitted = (Macenko if method == "macenko" else Reinhard).fit(slide.image[150:550, 200:600], tissue.glass)
    assert np.abs(normalise(tile).astype(int) - fitted.normaliser()(tile)).mean() < 2
    np.testing.assert_array_equal(fit_normaliser(method, slide, tissue)(tile), normalise(tile))


def test_pixels_come_from_tissue_and_from_all_of_it() -> None:
    slide = Painted(on_glass(SlideLook()))
    mask = np.zeros((70, 80), bool)
    mask[15:55, 20:60] = True
    slide.image[150:550, 200:600] = np.arange(400)[:, None, None] // 2  # a ramp that says where a pixel is from
    tissue = Tissue(mask, (10.0, 10.0), "", "bright field", 0.02, (243, 241, 244), np.zeros(mask.shape, np.uint8))
    pixels = tissue_pixels(slide, tissue)
    assert pixels.max() < 200
    assert len(np.unique(pixels)) > 190


def test_what_has_no_stains_is_refused() -> None:
    slide = Painted(on_glass(SlideLook()))
    mask = np.ones((70, 80), bool)
    glowing = Tissue(mask, (10.0, 10.0), "", "fluorescence", 0.02, (0, 0, 0), np.zeros(mask.shape, np.uint8))
    empty = Tissue(~mask, (10.0, 10.0), "why", "bright field", 0.02, (240, 240, 240), np.zeros(mask.shape, np.uint8))
    for tissue, what in ((glowing, "fluorescence has no stains"), (empty, "0 pixels are stained")):
        with pytest.raises(HistillError, match=what) as error:
            fit_normaliser("macenko", slide, tissue)
        assert error.value.code == Exit.INPUT
        assert error.value.subject == "a.svs"


def test_real_slides_come_to_the_target(data_root: Path) -> None:
    with open_slide(data_root / "slides" / "CMU-1-Small-Region.svs") as slide:
        tissue = find_tissue(slide)
        before = tissue_pixels(slide, tissue)
        after = fit_normaliser("macenko", slide, tissue)(before[None])[0]
    found = Macenko.fit(after, MACENKO.white)
    assert angle(Macenko.fit(before, tissue.glass).haematoxylin, MACENKO.haematoxylin) > 8
    assert angle(found.haematoxylin, MACENKO.haematoxylin) < 3
    np.testing.assert_allclose(found.strength, MACENKO.strength, rtol=0.1)
