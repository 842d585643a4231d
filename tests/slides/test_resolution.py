"""How large a pixel is: what is believed, what is not, and who said so."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from files import tissue, write_pyramid

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides.base import Slide
from histill.slides.open import open_slide
from histill.slides.resolution import LEAST_MPP, MOST_MPP, Stated, choose, from_openslide

PIXELS = tissue(80, 60)
INCH, CM = 25_400, 10_000
NAN, INF = math.nan, math.inf


def test_what_a_file_says_is_taken_with_its_source() -> None:
    spacing, notes = choose([Stated(0.499, 0.499, "openslide.mpp-x")], None)
    assert spacing is not None
    assert (spacing.mpp, spacing.source, notes) == (0.499, "file: openslide.mpp-x", ())


@pytest.mark.parametrize("mpp", [NAN, INF, -INF, 0.0, -0.25, 352.778, 25_400.0, 0.0499, 20.01, 1e-300])
def test_what_cannot_be_true_is_not_taken_and_said(mpp: float) -> None:
    for x, y in ((mpp, mpp), (0.25, mpp), (mpp, 0.25)):
        spacing, (note,) = choose([Stated(x, y, "a tag")], None)
        assert spacing is None
        assert f"a tag says {x:.6g} um/px" in note
        assert "not taken" in note


@pytest.mark.parametrize("mpp", [LEAST_MPP, MOST_MPP, 0.25, 5])
def test_the_range_is_closed(mpp: float) -> None:
    assert choose([Stated(mpp, mpp, "a tag")], None)[0] is not None
    assert choose([], mpp)[0] is not None


def test_the_first_that_can_be_true_counts() -> None:
    stated = [Stated(352.8, 352.8, "first"), Stated(0.5, 0.5, "second"), Stated(0.25, 0.25, "third")]
    spacing, notes = choose(stated, None)
    assert spacing is not None
    assert spacing.source == "file: second"
    assert len(notes) == 1


def test_the_same_number_twice_is_one_note() -> None:
    assert len(choose([Stated(352.77778, 352.77778, "a"), Stated(352.7777777, 352.7777777, "b")], None)[1]) == 1
    assert len(choose([Stated(NAN, NAN, "a"), Stated(NAN, NAN, "b")], None)[1]) == 1


def test_pixels_that_are_not_square() -> None:
    spacing, notes = choose([Stated(0.25, 0.2524, "a")], None)
    assert notes == ()
    spacing, (note,) = choose([Stated(0.25, 0.26, "a")], None)
    assert spacing is not None
    assert spacing.mpp**2 == pytest.approx(0.25 * 0.26)
    assert "0.25 um/px by 0.26" in note
    spacing, (note,) = choose([Stated(0.25, 0.5, "a")], None)
    assert spacing is None
    assert "not the sides of a square" in note


def test_the_user_counts_before_the_file_and_a_contradiction_is_said() -> None:
    spacing, notes = choose([Stated(0.5, 0.5, "a")], 0.25)
    assert spacing is not None
    assert (spacing.mpp, spacing.source) == (0.25, "user")
    assert notes == ("file: a says 0.5 um/px; the user's 0.25 counts",)
    assert choose([Stated(0.25, 0.25, "a")], 0.2501)[1] == ()
    assert choose([], 0.25)[1] == ()


@pytest.mark.parametrize("mpp", [0.0, -1.0, NAN, INF, 0.01, 40.0, 250.0])
def test_a_user_may_not_say_what_no_slide_has(mpp: float, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match=r"--mpp: no slide has") as caught:
        choose([], mpp)
    assert caught.value.code == Exit.USAGE
    with pytest.raises(HistillError) as caught:
        open_slide(write_pyramid(tmp_path / "a.tif", [PIXELS]), mpp)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(("text", "mpp"), [("0.25", 0.25), ("nan", NAN), ("0,25", NAN), ("", NAN), ("1e-1", 0.1)])
def test_openslides_words(text: str, mpp: float) -> None:
    (both,) = from_openslide({"openslide.mpp-x": text, "openslide.mpp-y": "0.25"})
    (one,) = from_openslide({"openslide.mpp-x": text})
    np.testing.assert_equal((both.x, both.y, one.x, one.y), (mpp, 0.25, mpp, mpp))
    assert from_openslide({"openslide.objective-power": "40"}) == []


# --- in files ---------------------------------------------------------------------------------------------------------


def tagged(path: Path, tiled: bool, per_unit: float, unit: str, **options: object) -> Slide:
    tile = {"tile": (64, 64)} if tiled else {}
    options = {"metadata": None, "photometric": "rgb", **options}
    tifffile.imwrite(path, PIXELS, resolution=(per_unit, per_unit), resolutionunit=unit, **tile, **options)
    return open_slide(path)


both = pytest.mark.parametrize("tiled", [True, False], ids=["openslide", "flat"])


@both
@pytest.mark.parametrize(
    ("per_unit", "unit", "mpp"), [(CM / 0.25, "CENTIMETER", 0.25), (INCH / 0.5, "INCH", 0.5), (CM, "CENTIMETER", 1)]
)
def test_resolution_with_a_unit_is_taken(per_unit: float, unit: str, mpp: float, tiled: bool, tmp_path: Path) -> None:
    with tagged(tmp_path / "a.tif", tiled, per_unit, unit) as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-5)
        assert slide.facts.spacing is not None
        assert slide.facts.spacing.source == ("file: openslide.mpp-x" if tiled else "file: TIFF XResolution")


@both
@pytest.mark.parametrize(
    ("per_unit", "unit", "said"),
    [(72, "INCH", "352.778"), (300, "INCH", "84.6667"), (1, "INCH", "25400"), (0, "INCH", ""), (1e7, "CENTIMETER", "")],
)
def test_resolution_of_prints_or_nonsense_is_not_taken(
    per_unit: float, unit: str, said: str, tiled: bool, tmp_path: Path
) -> None:
    with tagged(tmp_path / "a.tif", tiled, per_unit, unit) as slide:
        assert slide.facts.spacing is None
        with pytest.raises(HistillError, match=f"how large a pixel is.*{said}") as caught:
            slide.read(Region(0, 0, 4, 4), 0.5)
        assert caught.value.code == Exit.INPUT
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        assert slide.mpp == 0.5
        assert (slide.read(Region(0, 0, 4, 4), 0.5) == PIXELS[:4, :4]).all()


@both
def test_resolution_without_a_unit_says_nothing(tiled: bool, tmp_path: Path) -> None:
    assert tagged(tmp_path / "a.tif", tiled, CM / 0.25, "NONE").facts.spacing is None


@both
@pytest.mark.parametrize(("size", "unit"), [(0.25, "µm"), (250, "nm"), (0.00025, "mm"), (0.25, None)])
def test_ome_xml(size: float, unit: str | None, tiled: bool, tmp_path: Path) -> None:
    words = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    words |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if unit else {}
    tile = {"tile": (64, 64)} if tiled else {}
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="rgb", metadata=words, **tile)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert slide.facts.spacing is not None
        assert slide.facts.spacing.source == "file: OME PhysicalSizeX"


@pytest.mark.parametrize(("unit", "mpp"), [("um", 0.25), ("micron", 0.25), ("\\u00B5m", 0.25), ("pixel", None)])
def test_imagejs_words(unit: str, mpp: float | None, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, imagej=True, resolution=(4, 4), metadata={"unit": unit})
    spacing = open_slide(tmp_path / "a.tif").facts.spacing
    assert (spacing and spacing.mpp) == mpp


def test_a_png_may_say_it_and_a_jpeg_may_not(tmp_path: Path) -> None:
    dpi = (INCH / 0.5, INCH / 0.5)
    for name, mpp in (("a.png", 0.5), ("a.jpg", None), ("a.bmp", None)):
        Image.fromarray(PIXELS).save(tmp_path / name, dpi=dpi)
        spacing = open_slide(tmp_path / name).facts.spacing
        assert (spacing and round(spacing.mpp, 6)) == mpp
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(300, 300))
    with pytest.raises(HistillError, match="PNG pHYs says 84"):
        _ = open_slide(tmp_path / "a.png").mpp
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert open_slide(tmp_path / "a.png").facts.notes == ()
