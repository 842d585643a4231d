"""Real and odd slides of many scanners: each does what its manifest says it should."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from files import failure

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides.open import open_slide, slide_paths
from histill.slides.resolution import LEAST_MPP, MOST_MPP

OPEN = {
    "CMU-1-Small-Region.svs": "opens",
    "TCGA-CR-7395-01A-01-TS1.svs": "opens; mpp and magnification missing",
    "hamamatsu_dapi.ndpi": "opens; tissue is bright on BLACK",
    "generic_pyramid_boxes.tiff": "opens; absurd resolution tag (mpp 352.8)",
    "tiny_16px.svs": "opens, smaller than any tile",
    "dicom_boxes_0.dcm": "opens",
    "dicom_boxes_1.dcm": "opens",
    "dicom_sm_image.dcm": "opens",
    "orient5.tif": "opens; orientation tag",
    "tall_10kx5k_grey.tif": "opens; single channel, highly compressible",
}
UNREADABLE = {"unreadable_tiles.svs": "opens, read_region must fail cleanly"}
REFUSED = {
    "vectra_small.qptiff": ("openslide rejects; tifffile opens", "6 images that are not levels of one another"),
    "unopenable_compression.tiff": ("open must fail cleanly", "compression: 52479"),
    "broken_header.svs": ("open must fail cleanly", "neither a slide nor an image"),
    "dicom_sm_grayscale16.dcm": ("openslide must refuse (BitsAllocated 16)", "16 or more bits"),
    "zero_gi.tif": ("must fail cleanly or open as documented", "an image of 2 x 0 pixels"),
    "olympus_no_pixels.vsi": ("openslide rejects; tifffile shows overview pages only", "pixels lie in .ets files"),
}
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows(data_root: Path) -> dict[str, Row]:
    with (data_root / "slides" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_every_file_is_spoken_for(rows: dict[str, Row], data_root: Path) -> None:
    spoken = OPEN | UNREADABLE | {name: expected for name, (expected, _) in REFUSED.items()}
    assert {name: row["expected"] for name, row in rows.items()} == spoken
    found = {path.name for path in slide_paths(data_root / "slides")}
    assert found == rows.keys() - {"dicom_boxes_1.dcm"}, "of the same series as dicom_boxes_0.dcm"


@pytest.mark.parametrize("name", [*OPEN, *UNREADABLE])
def test_it_opens_with_its_size_levels_and_spacing(name: str, rows: dict[str, Row], data_root: Path) -> None:
    path, row = data_root / "slides" / name, rows[name]
    with open_slide(path) as slide:
        assert slide.size == (int(row["width"]), int(row["height"]))
        assert len(slide.facts.levels) == int(row["levels"] or 1)
        if row["mpp"] and LEAST_MPP <= float(row["mpp"]) <= MOST_MPP:
            assert slide.mpp == float(row["mpp"])
            assert slide.facts.spacing is not None
            assert slide.facts.spacing.source == "file: openslide.mpp-x"
        else:
            with pytest.raises(HistillError, match="does not say how large a pixel is") as caught:
                slide.read(Region(0, 0, 8, 8), 0.5)
            assert caught.value.code == Exit.INPUT
            assert bool(slide.facts.notes) == (name != "TCGA-CR-7395-01A-01-TS1.svs")
    with open_slide(path, 0.5) as slide:
        assert slide.mpp == 0.5


@pytest.mark.parametrize("name", OPEN)
def test_it_is_read(name: str, data_root: Path) -> None:
    with open_slide(data_root / "slides" / name, 0.5) as slide:
        width, height = slide.size
        small = slide.thumbnail(200)
        assert max(small.shape[:2]) == min(200, max(width, height))
        assert small.shape[1] / small.shape[0] == pytest.approx(width / height, rel=0.02)
        assert small.std() > 0
        part = slide.read(Region(width // 2 - 8, height // 2 - 8, 16, 16), 0.5)
        assert (part.shape, part.dtype) == ((16, 16, 3), np.uint8)
        if name == "hamamatsu_dapi.ndpi":
            assert small.mean() < 30
        if name in ("orient5.tif", "tall_10kx5k_grey.tif"):
            assert np.ptp(small.astype(int), axis=2).max() == 0


@pytest.mark.parametrize("name", UNREADABLE)
def test_it_opens_and_is_not_readable(name: str, data_root: Path) -> None:
    error = failure(data_root / "slides" / name)
    assert error.code == Exit.INPUT
    assert "cannot be decoded" in error.what


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_words(name: str, data_root: Path) -> None:
    for mpp in (None, 0.5):
        error = failure(data_root / "slides" / name, mpp)
        assert error.code == Exit.INPUT
        assert REFUSED[name][1] in error.what
