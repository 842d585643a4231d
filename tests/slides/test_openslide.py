"""Slides that OpenSlide reads: exactly its pixels, at the right place, and never grey for what cannot be decoded."""

import sys
import threading
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))

from files import Image, blocks, coordinates, failure, poke, shrunk, tissue, write_pyramid

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides.base import Slide
from histill.slides.open import open_slide
from histill.slides.openslide import OpenSlideSlide

ODD = (1000, 700)


def levels_read(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The levels that a slide reads from now on."""
    levels: list[int] = []
    read = slide._read_level

    def spy(level: int, x: int, y: int, w: int, h: int) -> Image:
        levels.append(level)
        return read(level, x, y, w, h)

    monkeypatch.setattr(slide, "_read_level", spy)
    return levels


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "hamamatsu_dapi.ndpi", "dicom_sm_image.dcm"])
def test_at_its_own_spacing_the_pixels_are_openslides(name: str, data_root: Path) -> None:
    path = data_root / "slides" / name
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.size == reference.dimensions
        assert [level.downsample for level in slide.facts.levels] == list(reference.level_downsamples)
        width, height = slide.size
        for x, y, w, h in ((0, 0, 40, 30), (width // 2, height // 3, 300, 200), (width - 20, height - 10, 20, 10)):
            theirs = np.asarray(reference.read_region((x, y), 0, (w, h)).convert("RGB"))
            inside = np.full((h, w, 3), 255, np.uint8)
            inside[: height - y, : width - x] = theirs[: height - y, : width - x]
            np.testing.assert_array_equal(slide.read(Region(x, y, w, h), slide.mpp), inside)


def test_at_the_spacing_of_a_level_the_pixels_are_that_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tissue(512, 384)
    made = [whole, shrunk(whole, 256, 192), tissue(64, 48, seed=9)]
    with open_slide(write_pyramid(tmp_path / "a.tif", made)) as slide:
        levels = levels_read(slide, monkeypatch)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 384), 0.5), made[1])
        np.testing.assert_array_equal(slide.read(Region(64, 128, 256, 64), 0.5), made[1][64:96, 32:160])
        np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 384), 2.0), made[2])
        slide.read(Region(0, 0, 512, 384), 1.9)
        slide.read(Region(0, 0, 512, 384), 0.4)
        slide.read(Region(0, 0, 512, 384), 8.0)
        assert levels == [1, 1, 2, 1, 0, 2]


def test_beyond_the_edge_is_white(tmp_path: Path) -> None:
    whole = np.zeros((100, 130, 3), np.uint8)
    with open_slide(write_pyramid(tmp_path / "a.tif", [whole, whole[::2, ::2]])) as slide:
        for mpp in (0.25, 0.5):
            step = round(mpp / 0.25)
            read = slide.read(Region(-20, 40, 200, 100), mpp)
            expected = np.full((100 // step, 200 // step, 3), 255)
            expected[: 60 // step, 20 // step : 150 // step] = 0
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("shrinks", [(), (2,), (3,), (2, 4, 16), (5, 25), (2.56, 8.53)])
def test_pixels_land_where_they_belong(shrinks: tuple[float, ...], tmp_path: Path) -> None:
    whole = coordinates()
    made = [
        blocks(whole, each) if isinstance(each, int) else shrunk(whole, *[round(256 / each)] * 2) for each in shrinks
    ]
    path = write_pyramid(tmp_path / "a.tif", [whole, *made])
    random = np.random.default_rng(0)
    with open_slide(path) as slide:
        for _ in range(60):
            mpp = random.uniform(0.2, 2.5)
            side = round(16 * mpp / 0.25)
            x, y = (int(value) for value in random.integers(0, 257 - side, 2))
            read = slide.read(Region(x, y, side, side), mpp).astype(float)
            step = side / len(read)
            centres = (np.arange(len(read)) + 0.5) * step - 0.5
            # The outermost pixels of an odd level are not wholly covered, and so lighter.
            inner = np.s_[1:-1, 1:-1]
            near = 0.5 * max(step, 1) + 1
            assert np.abs(read[..., 0] - (x + centres))[inner].max() <= near
            assert np.abs(read[..., 1] - (y + centres[:, None]))[inner].max() <= near


def test_the_same_tissue_from_two_scanners_reads_nearly_alike(tmp_path: Path) -> None:
    fine = tissue(600, 400)
    first = open_slide(write_pyramid(tmp_path / "a.tif", [fine, shrunk(fine, 150, 100)], 0.25))
    second = open_slide(write_pyramid(tmp_path / "b.tif", [shrunk(fine, 300, 200)], 0.5))
    third = open_slide(write_pyramid(tmp_path / "c.tif", [shrunk(fine, 500, 333)], 0.3))
    for x, y in ((0, 0), (100, 50), (37, 61)):
        regions = [each.at(0.5).region(x, y, 128, 96) for each in (first, second, third)]
        reads = [slide.read(region, 0.5) for slide, region in zip((first, second, third), regions, strict=True)]
        assert [read.shape for read in reads] == [(96, 128, 3)] * 3
        assert np.abs(reads[0].astype(int) - reads[1]).max() <= 1
        assert np.abs(reads[2].astype(int) - reads[1]).mean() < 3
        assert np.std(reads[1]) > 15


def test_levels_of_odd_ratios(tmp_path: Path) -> None:
    whole = tissue(*ODD)
    made = [whole, shrunk(whole, 333, 233), shrunk(whole, 77, 53)]
    with open_slide(write_pyramid(tmp_path / "a.tif", made)) as slide:
        for level, size in ((1, (333, 233)), (2, (77, 53))):
            np.testing.assert_array_equal(slide.read_as(Region(0, 0, *ODD), *size), made[level])
            assert slide.facts.levels[level].downsample == pytest.approx(ODD[0] / size[0], rel=0.02)


def test_grey_becomes_colour_and_alpha_is_laid_on_white(tmp_path: Path) -> None:
    grey = tissue(90, 70)[..., 0]
    with open_slide(write_pyramid(tmp_path / "a.tif", [grey], photometric="minisblack")) as slide:
        assert isinstance(slide, OpenSlideSlide)
        np.testing.assert_array_equal(slide.thumbnail(90), np.repeat(grey[..., None], 3, 2))
    rgba = np.dstack([tissue(90, 70), np.full((70, 90), 255, np.uint8)])
    rgba[:20, :, 3], rgba[20:40, :, 3] = 0, 128
    with open_slide(write_pyramid(tmp_path / "b.tif", [rgba], extrasamples=["unassalpha"])) as slide:
        read = slide.thumbnail(90)
    assert (read[:20] == 255).all()
    assert np.abs(read[20:40] - (rgba[20:40, :, :3] * (128 / 255) + 127)).max() <= 2
    np.testing.assert_array_equal(read[40:], rgba[40:, :, :3])


# --- what cannot be decoded -------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A slide of 3 x 3 tiles whose middle one cannot be decoded."""
    path = write_pyramid(tmp_path / "whole.tif", [tissue(192, 192), tissue(96, 96)])
    return spoiled(path, tmp_path / "a.tif", 0, 4, 0.5)


def spoiled(original: Path, path: Path, page: int, tile: int, share: float) -> Path:
    """A copy in which one tile's last part is zeros, as a copy has that stopped and whose room was kept."""
    with tifffile.TiffFile(original) as file:
        stored = file.pages[page]
        begin, length = stored.dataoffsets[tile], stored.databytecounts[tile]
    data = bytearray(original.read_bytes())
    lost = max(4, int(length * share))
    data[begin + length - lost : begin + length] = bytes(lost)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("name", "page", "tile", "level", "inside", "beside"),
    [
        ("CMU-1-Small-Region.svs", 0, 31, 0, (250, 730), (1000, 1000)),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0, 134, 0, (2100, 1850), (2400, 2400)),
        ("TCGA-CR-7395-01A-01-TS1.svs", 2, 30, 1, (800, 800), (1100, 1100)),
        ("orient5.tif", 0, 3, 0, (70, 70), (0, 0)),
        ("generic_pyramid_boxes.tiff", 0, 6, 0, (70, 70), (140, 140)),
    ],
    ids=["jpeg", "jpeg2000", "jpeg2000-level1", "grey-jpeg", "deflate"],
)
def test_tiles_filled_up_with_zeros_are_not_shown(
    name: str,
    page: int,
    tile: int,
    level: int,
    inside: tuple[int, int],
    beside: tuple[int, int],
    share: float,
    tmp_path: Path,
    data_root: Path,
) -> None:
    original = data_root / "slides" / name
    path = spoiled(original, tmp_path / name, page, tile, share)
    with open_slide(path, 0.5) as slide, open_slide(original, 0.5) as sound:
        with pytest.raises(HistillError, match=f"of level {level} cannot be decoded"):
            slide._read_level(level, *inside, 20, 20)
        np.testing.assert_array_equal(
            slide._read_level(level, *beside, 20, 20), sound._read_level(level, *beside, 20, 20)
        )


def test_planes_of_colours_are_looked_at_each(tmp_path: Path) -> None:
    whole = tissue(90, 70)
    path = tmp_path / "a.tif"
    options = {"planarconfig": "separate", "photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(path, whole.transpose(2, 0, 1), metadata=None, **options)
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.thumbnail(90), whole)
    for tile in (0, 4, 8):
        with open_slide(spoiled(path, tmp_path / "b.tif", 0, tile, 0.5), 0.5) as slide:
            with pytest.raises(HistillError, match="cut off or damaged"):
                slide.read(Region(0, 0, 64, 64), 0.5)
            np.testing.assert_array_equal(slide.read(Region(64, 0, 26, 70), 0.5), whole[:, 64:])


def test_an_unreadable_tile_costs_its_own_reads_only(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        for _ in range(2):
            for region in (Region(64, 64, 64, 64), Region(0, 0, 192, 192), Region(127, 127, 2, 2)):
                with pytest.raises(HistillError, match="of level 0 cannot be decoded") as caught:
                    slide.read(region, 0.25)
                assert caught.value.code == Exit.INPUT
                assert caught.value.subject == str(damaged)
            expected = tissue(192, 192)
            np.testing.assert_array_equal(slide.read(Region(0, 0, 192, 64), 0.25), expected[:64])
            np.testing.assert_array_equal(slide.read(Region(128, 100, 64, 92), 0.25), expected[100:, 128:])
            np.testing.assert_array_equal(slide.read(Region(0, 0, 192, 192), 0.5), tissue(96, 96))


def test_threads_do_not_suffer_from_each_others_bad_tiles(damaged: Path) -> None:
    expected = tissue(192, 192)[:64]
    wrong: list[object] = []
    with open_slide(damaged) as slide:

        def good() -> None:
            for _ in range(30):
                try:
                    wrong.extend([] if (slide.read(Region(0, 0, 192, 64), 0.25) == expected).all() else ["pixels"])
                except HistillError as error:
                    wrong.append(error)

        thread = threading.Thread(target=good)
        thread.start()
        for _ in range(30):
            with pytest.raises(HistillError):
                slide.read(Region(64, 64, 64, 64), 0.25)
        thread.join()
    assert wrong == []


def test_closed_is_closed(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "a.tif", [tissue(90, 70)]))
    for _ in range(2):
        slide.close()
    with pytest.raises(ValueError, match="is closed"):
        slide.thumbnail(90)


def test_a_passing_fault_costs_nothing(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def read_region(self, *_: object) -> None:
            raise openslide.OpenSlideError("the network drive was gone")

    with open_slide(damaged) as slide:
        monkeypatch.setattr(slide, "_handle", Fails())
        np.testing.assert_array_equal(slide.read(Region(0, 0, 64, 64), 0.25), tissue(192, 192)[:64, :64])


def test_a_file_that_is_replaced_is_seen_when_it_is_opened_anew(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        slide.read(Region(0, 0, 64, 64), 0.25)
        write_pyramid(damaged, [tissue(192, 128), tissue(96, 64)])
        with pytest.raises(HistillError):
            slide.read(Region(64, 64, 128, 128), 0.25)
        slide._handle = None
        with pytest.raises(HistillError, match="changed while it was read"):
            slide.read(Region(0, 0, 64, 64), 0.25)
        damaged.unlink()
        with pytest.raises(HistillError, match="cannot be read: No such file"):
            slide.read(Region(64, 64, 128, 128), 0.25)
        slide._handle = None
        with pytest.raises(HistillError, match="cannot open it") as caught:
            slide.read(Region(0, 0, 64, 64), 0.25)
        assert caught.value.code == Exit.INPUT


def test_unreadable_from_a_scanner(data_root: Path) -> None:
    with open_slide(data_root / "slides" / "unreadable_tiles.svs") as slide:
        assert slide.size == (16, 16)
        for _ in range(2):
            with pytest.raises(HistillError, match="cannot be decoded: Bogus marker length"):
                slide.read(Region(0, 0, 16, 16), 0.5)


def test_what_openslide_claims_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.tif", [tissue(90, 70)])
    monkeypatch.setattr("histill.slides.openslide.openslide.OpenSlide.level_dimensions", ((400_000, 400_000),))
    assert failure(path).code == Exit.UNSAFE


# --- notes ------------------------------------------------------------------------------------------------------------


def test_an_orientation_is_not_applied_and_said(tmp_path: Path, data_root: Path) -> None:
    whole = tissue(90, 70)
    for orientation in (1, 5):
        path = write_pyramid(tmp_path / "a.tif", [whole], extratags=[(274, 3, 1, orientation, True)])
        with open_slide(path) as slide:
            assert [f"orientation {orientation}" in note for note in slide.facts.notes] == [True] * (orientation > 1)
            np.testing.assert_array_equal(slide.thumbnail(90), whole)
    with open_slide(data_root / "slides" / "orient5.tif", 0.5) as slide:
        assert any("orientation 5" in note for note in slide.facts.notes)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6, 7, 8])
def test_an_orientation_that_scrambles_tiles_is_refused(orientation: int, tmp_path: Path, data_root: Path) -> None:
    whole = tissue(90, 70)
    path = write_pyramid(tmp_path / "a.tif", [whole], extratags=[(274, 3, 1, orientation, True)])
    with openslide.OpenSlide(path) as reference:
        theirs = np.asarray(reference.read_region((0, 0), 0, (90, 70)).convert("RGB"))
    assert (theirs[:64, :64] != whole[:64, :64]).any(), "OpenSlide has learnt it: nothing need be refused"
    assert f"orientation is {orientation}" in failure(path).what
    assert "tiffset" in failure(path).mend
    # Tiles of colour JPEG are decoded as they are. The tag takes the place of another, of a default value.
    original = data_root / "slides" / "CMU-1-Small-Region.svs"
    data = bytearray(original.read_bytes())
    with tifffile.TiffFile(original) as file:
        place = file.pages[0].tags["PlanarConfiguration"].offset
    data[place : place + 2], data[place + 8 : place + 10] = (274).to_bytes(2, "little"), bytes([orientation, 0])
    (tmp_path / "a.svs").write_bytes(data)
    with open_slide(tmp_path / "a.svs") as slide, open_slide(original) as sound:
        assert any(f"orientation {orientation}" in note for note in slide.facts.notes)
        part = Region(200, 200, 300, 300)
        np.testing.assert_array_equal(slide.read(part, 0.499), sound.read(part, 0.499))


def test_the_resolution_of_another_image_is_not_the_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.tif", [tissue(90, 70)], mpp=2.0)
    # As where a scanner's first image is a macro: OpenSlide's level 0 is another.
    monkeypatch.setattr("histill.slides.openslide.from_openslide", lambda _: [])
    assert open_slide(path).facts.spacing is not None
    monkeypatch.setattr("histill.slides.openslide.openslide.OpenSlide.level_dimensions", ((900, 700),))
    assert open_slide(path).facts.spacing is None


def test_images_that_are_no_levels_are_noted(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for image in (tissue(90, 70), tissue(64, 64)):
            file.write(image, photometric="rgb", metadata=None, tile=(64, 64), compression="zlib")
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        assert slide.facts.notes == ("1 more images in the file are not read",)


def test_a_property_that_is_not_there_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ghosts(dict[str, str]):
        def __iter__(self) -> object:
            return iter([*super().__iter__(), "ghost"])

    ghosts = Ghosts({"openslide.vendor": "aperio"})
    monkeypatch.setattr("histill.slides.openslide.openslide.OpenSlide.properties", ghosts)
    assert open_slide(write_pyramid(tmp_path / "a.tif", [tissue(9, 7)])).facts.properties == {
        "openslide.vendor": "aperio"
    }


def test_a_poke_is_a_poke(tmp_path: Path) -> None:
    path = poke(write_pyramid(tmp_path / "a.tif", [tissue(90, 70)]), 256, 64)
    assert open_slide(path).size == (64, 70)
