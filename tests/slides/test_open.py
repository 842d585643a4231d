"""Any file is opened by its content, or refused with words; a folder's slides are found by their names."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from files import failure, outcome, tissue, write_pyramid

from histill.core.errors import Exit
from histill.slides.flat import FlatSlide
from histill.slides.open import is_slide, open_slide, slide_paths
from histill.slides.openslide import OpenSlideSlide

PIXELS = tissue(90, 70)


def save(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, **options)
    return path


def test_the_content_tells_the_kind_not_the_name(tmp_path: Path) -> None:
    flat = save(tmp_path / "a.svs", format="PNG")
    pyramid = write_pyramid(tmp_path / "b.png", [PIXELS])
    nameless = shutil.copy(pyramid, tmp_path / "c")
    for path, kind in ((flat, FlatSlide), (pyramid, OpenSlideSlide), (Path(nameless), OpenSlideSlide)):
        with open_slide(path, 0.5) as slide:
            assert isinstance(slide, kind)
            np.testing.assert_array_equal(slide.thumbnail(90), PIXELS)
        assert is_slide(path) == (kind is OpenSlideSlide)


@pytest.mark.parametrize("name", ["a.svs", "a.png", "a.tif", "a.mrxs", "a.vsi", "a.dcm", "a"])
@pytest.mark.parametrize("content", [b"some text, of a slide that is not here\n" * 9, bytes(4096), b"\xff\xd8\xff"])
def test_what_is_neither_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert failure(tmp_path / name).code == Exit.INPUT
    assert not is_slide(tmp_path / name)


def test_a_preview_is_not_taken_for_the_slide(tmp_path: Path) -> None:
    # A .mrxs is a small JPEG; its pixels lie in a folder of its name.
    error = failure(save(tmp_path / "a.mrxs", format="JPEG"))
    assert (error.code, "folder" in error.what) == (Exit.INPUT, True)
    error = failure(save(tmp_path / "a.VSI", format="TIFF"))
    assert (error.code, ".ets" in error.what) == (Exit.INPUT, True)


def test_is_slide_never_raises(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    for name in ("missing.svs", "empty.svs", ".", "nul\0l", "empty.svs/a"):
        assert not is_slide(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "with space.tif",
        "-dash.tif",
        "--mpp.tif",
        "日本 ünïcode.tif",
        "a\nb.tif",
        "percent%s.tif",
        "\udcff\udcfe.tif",
        "'.tif",
    ],
)
def test_odd_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyramid(tmp_path / "plain.tif", [PIXELS]).rename(tmp_path / name)
    save(tmp_path / "plain.png").rename(tmp_path / f"{name}.png")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name), Path("sub") / ".." / name, Path(f"{name}.png")):
        np.testing.assert_array_equal(outcome(path), PIXELS)
    assert slide_paths(Path()) == sorted([Path(name), Path(f"{name}.png")])


# --- folders ----------------------------------------------------------------------------------------------------------


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_slides_are_found_below_a_folder(tmp_path: Path) -> None:
    slides = ["a.svs", "b.TIFF", "c/d.ndpi", "c/e/f.qptiff", "g.vsi", "h.mrxs", "i.JPG", "j.png", "a b.svs"]
    touched(tmp_path, *slides, ".hidden.svs", ".cache/k.svs", "notes.txt", "h/Data0001.dat", "h/Index.dat", "svs")
    (tmp_path / "folder.svs").mkdir()
    assert slide_paths(tmp_path) == sorted(tmp_path / name for name in slides)
    assert slide_paths(tmp_path / "c" / "e") == [tmp_path / "c" / "e" / "f.qptiff"]
    assert slide_paths(tmp_path / "h") == slide_paths(tmp_path / "missing") == []


def test_a_hidden_folder_above_does_not_hide(tmp_path: Path) -> None:
    touched(tmp_path / ".data", "a.svs")
    assert slide_paths(tmp_path / ".data") == [tmp_path / ".data" / "a.svs"]


def test_a_dicom_series_is_one_slide(tmp_path: Path, data_root: Path) -> None:
    for name in ("dicom_boxes_0.dcm", "dicom_boxes_1.dcm", "dicom_sm_image.dcm", "dicom_sm_grayscale16.dcm"):
        shutil.copy(data_root / "slides" / name, tmp_path)
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    (tmp_path / "other").mkdir()
    shutil.copy(data_root / "slides" / "dicom_boxes_1.dcm", tmp_path / "other")
    found = [path.relative_to(tmp_path).as_posix() for path in slide_paths(tmp_path)]
    ones = ["dicom_boxes_0.dcm", "dicom_sm_grayscale16.dcm", "dicom_sm_image.dcm", "junk.dcm"]
    assert found == [*ones, "other/dicom_boxes_1.dcm"]


def test_the_images_of_a_vms_are_not_slides(tmp_path: Path) -> None:
    touched(tmp_path, "a.jpg", "a(0,1).jpg", "a_map2.jpg", "a_macro.jpg", "b.jpg")
    lines = ["[Virtual Microscope Specimen]", "NoJpegColumns=1", "ImageFile=a.jpg", "ImageFile(0,1)=a(0,1).jpg"]
    (tmp_path / "a.vms").write_text("\r\n".join([*lines, "MapFile=a_map2.jpg", "MacroImage=a_macro.jpg", "Tail="]))
    assert [path.name for path in slide_paths(tmp_path)] == ["a.vms", "b.jpg"]
