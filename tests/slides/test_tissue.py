"""Where tissue is: every stain, no stain, no glass, no tissue; pen, dust and borders."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histill.core.geometry import Frame
from histill.slides.base import Level, Slide, SlideFacts, Spacing
from histill.slides.open import open_slide
from histill.slides.tissue import Dropped, Tissue, TissueSettings, find_tissue, tissue_in

MPP = 8.0
"""um per px of all made pictures here, but where it says otherwise."""

STAINS = {
    "haematoxylin and eosin": (0.12, 0.38, 0.16),
    "pale": (0.025, 0.08, 0.035),
    "DAB": (0.20, 0.30, 0.42),
    "counterstain alone": (0.09, 0.07, 0.03),
    "PAS": (0.15, 0.40, 0.15),
    "silver": (0.35, 0.36, 0.33),
    "Masson's blue": (0.42, 0.25, 0.08),
}
"""Optical density (log10) of tissue in several stains: red, green, blue."""

INKS = {
    "blue": (0.75, 0.45, 0.12),
    "navy": (1.0, 0.8, 0.35),
    "green": (0.85, 0.25, 0.60),
    "red": (0.06, 0.75, 0.65),
    "black": (1.2, 1.2, 1.15),
}


def disc(height: int = 300, width: int = 400, radius: int = 90) -> np.ndarray:
    """A disc in the middle, bool [h, w]."""
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2


def grain(shape: tuple[int, int], sigma: float, seed: int = 0) -> np.ndarray:
    """Noise of deviation 1 as coarse as `sigma` px, float32 [h, w]."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return smooth / smooth.std()


def scanned(density: np.ndarray, glass: tuple[float, ...] = (243, 243, 243), quality: int = 85) -> np.ndarray:
    """A bright-field picture, uint8 [h, w, 3], of optical densities float [h, w, 3], through noise and JPEG."""
    noise = np.random.default_rng(1).normal(0, 1.5, density.shape)
    image = np.clip(np.array(glass) * 10**-density + noise, 0, 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def stained(where: np.ndarray, stain: tuple[float, ...]) -> np.ndarray:
    """Optical density float [h, w, 3] of tissue: as uneven as nuclei and stroma make it."""
    uneven = np.clip(1 + 0.3 * grain(where.shape, 1.2) + 0.2 * grain(where.shape, 6, 1), 0.1, None)
    tint = 1 + 0.12 * np.stack([grain(where.shape, 1.5, seed) for seed in (2, 3, 4)], -1)
    return where[..., None] * uneven[..., None] * tint * np.array(stain)


def stroke(shape: tuple[int, int], ink: tuple[float, ...], width_px: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A felt-tip line from the top left downwards: its densities float [h, w, 3], and where it is, bool [h, w]."""
    line = np.zeros(shape, np.float32)
    cv2.line(line, (30, 20), (60, shape[0] - 20), 1.0, width_px)
    even = cv2.GaussianBlur(line, (0, 0), 1.5) * (1 + 0.08 * grain(shape, 6))
    return even[..., None] * np.array(ink), line > 0


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("stain", STAINS.values(), ids=STAINS)
def test_tissue_of_every_stain_is_found(stain: tuple[float, ...]) -> None:
    found = tissue_in(scanned(stained(disc(), stain)), mpp=MPP)
    assert found.kind == "bright field"
    assert found.why == ""
    assert overlap(found.mask, disc()) > 0.94
    assert np.abs(np.array(found.glass) - 243).max() < 2


def test_share_is_that_of_the_mask_and_the_map_is_the_pictures() -> None:
    found = tissue_in(scanned(stained(disc(), STAINS["PAS"])), mpp=MPP, scale=(32.0, 32.5))
    assert found.mask.shape == (300, 400)
    assert found.share == found.mask.mean()
    assert found.scale == (32.0, 32.5)


@pytest.mark.parametrize("stain", ["haematoxylin and eosin", "pale", "counterstain alone"])
def test_light_may_fall_off_towards_the_corners(stain: str) -> None:
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    fall = -np.log10(1 - 0.12 * (x * x + y * y))[..., None]
    found = tissue_in(scanned(stained(disc(), STAINS[stain]) + fall, (250, 246, 240)), mpp=MPP)
    assert overlap(found.mask, disc()) > 0.93


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_pen_is_left_out_and_tissue_beside_it_kept(ink: tuple[float, ...]) -> None:
    marks, where = stroke((300, 400), ink)
    found = tissue_in(scanned(stained(disc(), STAINS["haematoxylin and eosin"]) + marks), mpp=MPP)
    assert overlap(found.mask, disc()) > 0.93
    assert not (found.mask & where).any()
    assert (found.dropped[where] == Dropped.PEN).mean() > 0.95
    kept = tissue_in(
        scanned(stained(disc(), STAINS["haematoxylin and eosin"]) + marks), TissueSettings(drop_pen=False), mpp=MPP
    )
    assert kept.mask[where].mean() > 0.95


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_a_slide_of_pen_alone_says_so(ink: tuple[float, ...]) -> None:
    found = tissue_in(scanned(stroke((300, 400), ink)[0]), mpp=MPP)
    assert found.share == 0
    assert found.why.startswith("only pen marks")


def test_blue_tissue_is_no_pen() -> None:
    found = tissue_in(scanned(stained(disc(), (0.55, 0.33, 0.10))), mpp=MPP)
    assert overlap(found.mask, disc()) > 0.94
    assert not (found.dropped == Dropped.PEN).any()


def test_dust_is_left_out_by_its_area_in_um() -> None:
    specks = np.zeros((300, 400), np.uint8)
    for row in range(30, 300, 60):
        cv2.circle(specks, (40, row), 4, 1, -1)
    dirt = specks[..., None] * np.array([0.4, 0.4, 0.38])
    # Specks of 9 px: 4,000 um2 each at 8 um/px, 250,000 at 64.
    found = tissue_in(scanned(dirt), mpp=MPP)
    assert found.share == 0
    assert found.why == "only pieces smaller than 20,000 um2 were found"
    assert (found.dropped == Dropped.SMALL).sum() > 100
    assert tissue_in(scanned(dirt), mpp=8 * MPP).mask[30, 40]
    assert tissue_in(scanned(dirt), TissueSettings(least_area=2000), mpp=MPP).mask[30, 40]


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    where = disc(radius=120)
    small, large = disc(radius=12), np.roll(disc(radius=30), 70, axis=1)
    image = scanned(stained(where & ~small & ~large, STAINS["haematoxylin and eosin"]))
    found = tissue_in(image, mpp=MPP)
    assert found.mask[small].all()
    assert found.mask[large].mean() < 0.2
    all_filled = tissue_in(image, TissueSettings(largest_hole=1e6), mpp=MPP)
    assert all_filled.mask[large].all()


def test_fat_is_tissue() -> None:
    y, x = np.mgrid[:300, :400]
    walls = ((y % 10 == 0) | (x % 10 == 0)) & disc()  # cells of 80 um
    found = tissue_in(scanned(walls[..., None] * np.array([0.12, 0.3, 0.15])), mpp=MPP)
    assert overlap(found.mask, disc()) > 0.85


@pytest.mark.parametrize("fill", [0, 255, 180], ids=["black", "white", "grey"])
def test_what_was_not_scanned_is_neither_tissue_nor_glass(fill: int) -> None:
    image = scanned(stained(disc(radius=60), STAINS["pale"]), (226, 222, 228))
    image[:70] = image[:, :90] = fill
    found = tissue_in(image, mpp=MPP)
    assert overlap(found.mask, disc(radius=60)) > 0.9
    assert np.abs(np.array(found.glass) - (226, 222, 228)).max() < 3
    assert (found.dropped == Dropped.BORDER).any() == (fill < 255)


def test_tissue_that_fills_the_picture_is_all_tissue() -> None:
    everywhere = np.ones((300, 400), bool)
    for stain in ("haematoxylin and eosin", "DAB", "Masson's blue"):
        assert tissue_in(scanned(stained(everywhere, STAINS[stain])), mpp=0.5).share > 0.97


def glowing(where: np.ndarray, dark: int = 4) -> np.ndarray:
    """Blue nuclei on black, uint8 [h, w, 3]."""
    rng = np.random.default_rng(0)
    nuclei = ((grain(where.shape, 1.0) > 1.2) & where).astype(np.float32)
    blue = cv2.GaussianBlur(nuclei, (0, 0), 0.8) * 160 + dark + rng.normal(0, 1, where.shape)
    return np.stack([0 * blue, 0 * blue, blue], -1).clip(0, 255).astype(np.uint8)


def test_fluorescence_is_bright_on_black() -> None:
    found = tissue_in(glowing(disc()), mpp=MPP)
    assert found.kind == "fluorescence"
    assert overlap(found.mask, disc()) > 0.85
    nothing = tissue_in(glowing(disc(radius=0), dark=30), mpp=MPP)
    assert (nothing.share, nothing.why) == (0, "no pixel differs from the background")


def test_the_user_may_say_how_a_slide_was_lit() -> None:
    image = glowing(disc())
    assert tissue_in(image, TissueSettings(kind="bright field"), mpp=MPP).kind == "bright field"
    assert tissue_in(image, TissueSettings(kind="fluorescence"), mpp=MPP).share > 0.1


def test_the_user_may_set_the_threshold() -> None:
    image = scanned(stained(disc(), STAINS["pale"]))
    assert tissue_in(image, TissueSettings(threshold=0.02), mpp=MPP).threshold == 0.02
    assert tissue_in(image, TissueSettings(threshold=0.5), mpp=MPP).share == 0


def flat(*colour: int) -> np.ndarray:
    return np.full((120, 160, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (flat(255, 255, 255), "no pixel differs from the background"),
        (flat(236, 230, 238), "no pixel differs from the background"),
        (flat(0, 0, 0), "the picture is all black, or all one grey"),
        (flat(128, 128, 128), "the picture is all black, or all one grey"),
        (flat(235, 150, 190), "no pixel differs from the background"),
        (scanned(np.zeros((120, 160, 3))), "no pixel differs from the background"),
        (flat(200, 200, 200)[:1, :1], "no pixel differs from the background"),
    ],
    ids=["white", "glass", "black", "grey", "pink", "noise", "one pixel"],
)
def test_nothing_has_its_reason(image: np.ndarray, why: str) -> None:
    found = tissue_in(image, mpp=MPP)
    assert (found.share, found.why) == (0, why)
    assert found.mask.shape == image.shape[:2]


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 1000),
    st.sampled_from([None, 0.25, 50.0]),
    st.sampled_from(["auto", "bright field", "fluorescence"]),
)
def test_the_smallest_pictures_are_looked_at_too(h: int, w: int, seed: int, mpp: float | None, kind: str) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    found = tissue_in(image, TissueSettings(kind=kind), mpp=mpp)
    assert found.mask.shape == found.dropped.shape == (h, w)
    assert bool(found.why) == (not found.mask.any())
    assert not (found.mask & (found.dropped > 0)).any()
    assert np.isfinite([*found.glass, found.threshold]).all()


class Painted(Slide):
    """A slide of a few levels in memory."""

    def __init__(self, levels: list[np.ndarray], mpp: float | None) -> None:
        self.levels, self.read = levels, []
        sizes = tuple(Level(each.shape[1], each.shape[0], max(levels[0].shape) / max(each.shape)) for each in levels)
        super().__init__(Path("a.svs"), SlideFacts("made", sizes, None if mpp is None else Spacing(mpp, "user")))

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        self.read.append(level)
        return self.levels[level][y : y + h, x : x + w].copy()

    def _close(self) -> None:
        pass


def test_a_level_of_about_the_right_size_is_read_as_it_is() -> None:
    # 4,800 x 3,600 px at 2 um/px: 1,200 px at 8 um/px.
    sizes = [(3600, 4800), (1125, 1500), (300, 400)]
    levels = [np.full((*size, 3), 240, np.uint8) for size in sizes]
    slide = Painted(levels, 2.0)
    found = find_tissue(slide)
    assert slide.read == [1]
    assert found.mask.shape == (1125, 1500)
    assert found.scale == (3.2, 3.2)


@pytest.mark.parametrize(("mpp", "longest"), [(0.25, 512), (2.0, 1000), (8.0, 2048), (None, 1024)])
def test_the_coarse_map_is_neither_too_fine_nor_too_large(mpp: float | None, longest: int) -> None:
    slide = Painted([np.full((3000, 4000, 3), 240, np.uint8)], mpp)
    assert max(find_tissue(slide).mask.shape) == longest
    assert find_tissue(Painted([np.full((9, 16, 3), 240, np.uint8)], mpp)).mask.shape == (9, 16)


def test_over_is_the_nearest_pixel_of_the_coarse_map() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((7, 5)) > 0.5
    found = Tissue(mask, (10.0, 9.0), "", "bright field", 0.02, (240, 240, 240), np.zeros(mask.shape, np.uint8))
    frame = Frame(50, 63, level0_mpp=0.5, mpp=0.75)
    x, y, w, h = -3, 30, 45, 20
    window = found.over(frame, x, y, w, h)
    for row in range(h):
        for column in range(w):
            at_x, at_y = (x + column + 0.5) * 1.5, (y + row + 0.5) * 1.5
            inside = 0 <= at_x < 50 and 0 <= at_y < 63
            assert window[row, column] == (inside and mask[int(at_y // 9), int(at_x // 10)])


@pytest.mark.parametrize(
    ("name", "mpp", "low", "high", "kind"),
    [
        ("CMU-1-Small-Region.svs", None, 0.38, 0.47, "bright field"),
        ("TCGA-CR-7395-01A-01-TS1.svs", 4.0, 0.60, 0.66, "bright field"),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.25, 0.62, 0.72, "bright field"),
        ("hamamatsu_dapi.ndpi", None, 0.75, 0.90, "fluorescence"),
        ("tiny_16px.svs", None, 0.1, 0.6, "bright field"),
    ],
)
def test_real_slides(data_root: Path, name: str, mpp: float | None, low: float, high: float, kind: str) -> None:
    with open_slide(data_root / "slides" / name, mpp) as slide:
        found = find_tissue(slide)
    assert found.kind == kind
    assert low < found.share < high
    assert found.why == ""
    assert not (found.dropped == Dropped.PEN).any()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("2f6ecfcdf_10red16.png", 0.95, 1.0),
        ("2f6ecfcdf_11red16.png", 0.69, 0.78),
        ("2f6ecfcdf_12red16.png", 0.07, 0.11),
        ("2f6ecfcdf_16red16.png", 0.39, 0.46),
        ("2f6ecfcdf_3red16.png", 0.09, 0.15),
        ("2f6ecfcdf_9red16.png", 0.17, 0.23),
    ],
)
def test_kidney_in_pas_with_dust_and_a_black_border(data_root: Path, name: str, low: float, high: float) -> None:
    image = np.array(Image.open(data_root / "hubmap_kidney_lowmag" / "images" / name).convert("RGB"))
    found = tissue_in(image, mpp=8.0)
    assert low <= found.share <= high
    assert not found.mask[(image < 10).all(axis=2)].any()


def test_patches_of_tissue_are_nearly_all_tissue(data_root: Path) -> None:
    shares = []
    for path in sorted((data_root / "glas" / "images" / "test").glob("*.png"))[::8]:
        mask = np.array(Image.open(data_root / "glas" / "masks" / "test" / path.name)) > 0
        found = tissue_in(np.array(Image.open(path).convert("RGB")), mpp=0.62)
        assert found.mask[mask].mean() > 0.9, "glands are tissue"
        shares.append(found.share)
    assert np.median(shares) > 0.95


@pytest.mark.parametrize("stain", ["Masson", "PAS", "PASM"])
def test_special_stains_are_neither_pen_nor_glass(data_root: Path, stain: str) -> None:
    paths = sorted((data_root / "glomeruli_bupt" / "images" / "test").glob(f"*-{stain}*.jpg"))[:2]
    assert paths
    for path in paths:
        found = tissue_in(np.array(Image.open(path).convert("RGB")), mpp=0.5)
        assert found.share > 0.6
        assert not (found.dropped == Dropped.PEN).any()
