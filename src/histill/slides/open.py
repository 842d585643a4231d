"""Open a slide, whatever kind of file it is; and find the slides in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from histill.slides.base import Slide
from histill.slides.flat import FlatSlide
from histill.slides.header import check_header, refusal
from histill.slides.identity import dicom_series
from histill.slides.openslide import OpenSlideSlide, recognised

SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".qptiff", ".vsi"),
    *(".dcm", ".czi", ".png", ".jpg", ".jpeg", ".bmp"),
)
"""Names of slides and of flat images; also of kinds that are refused, so that they are refused and not passed over."""

_ELSEWHERE = {
    ".mrxs": ("the folder of its pixels is not beside it", "Copy the folder of the same name to the same place"),
    ".vsi": ("an Olympus .vsi, whose pixels lie in .ets files", "Export it as a tiled TIFF, from QuPath or OlyVIA"),
}
"""Files that are only a preview where OpenSlide does not recognise them: what they lack, and the mend."""


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Open a slide or a flat image; close it, or use it in a with statement.

    Args:
        path: the file; of a DICOM slide any one of its series, of a MIRAX the .mrxs.
        mpp: um per level-0 px; counts before what the file says.

    Raises:
        HistillError: input (4) if the file is missing, of no known kind, cut off, damaged, of 16 bits, or of channels
            that are not colours; unsafe (5) if reading it could take more memory or time than any slide needs; usage
            (2) for an `mpp` that no slide has. A spacing that is nowhere stated is an error when it is asked for.
    """
    images = check_header(path)
    if recognised(path):
        return OpenSlideSlide(path, mpp, images)
    if path.suffix.lower() in _ELSEWHERE:
        raise refusal(path, *_ELSEWHERE[path.suffix.lower()])
    return FlatSlide(path, mpp, images)


def is_slide(path: Path) -> bool:
    """Whether a file is a slide rather than a patch: OpenSlide recognises its content. Never raises."""
    return recognised(path)


def slide_paths(folder: Path) -> list[Path]:
    """Files below a folder that look like slides by their names, in the order of these.

    Hidden files and folders are left out; a DICOM series is its first file; images that a .vms is made of are not
    slides of their own.
    """
    found = [each for each in sorted(folder.rglob("*")) if each.suffix.lower() in SUFFIXES and each.is_file()]
    found = [each for each in found if not any(part.startswith(".") for part in each.relative_to(folder).parts)]
    parts = {part for each in found if each.suffix.lower() in (".vms", ".vmu") for part in _parts(each)}
    series = set()
    slides = []
    for each in found:
        name = (each.parent, dicom_series(each) or each.name) if each.suffix.lower() == ".dcm" else (each, "")
        if name not in series and each not in parts:
            series.add(name)
            slides.append(each)
    return slides


def _parts(path: Path) -> list[Path]:
    """What a .vms or .vmu names, among it its images: in lines such as ``ImageFile(1,0)=name.jpg``."""
    try:
        text = path.read_bytes()[: 1 << 20].decode("latin-1")
    except OSError:
        return []
    return [path.parent / name for name in re.findall(r"=(.+?)\s*$", text, re.MULTILINE)]
