"""Regions of slides that a user drew, as QuPath exports them: where to look, or where not to."""

from __future__ import annotations

from pathlib import Path

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Sample
from histill.core.record import fingerprint
from histill.core.storage import file_hash
from histill.formats.geojson import read_geojson
from histill.formats.outlines import Area

SUFFIXES = (".geojson", ".json", ".geojson.gz")


class Regions:
    """Regions in level-0 px, by slide.

    Args:
        path: one GeoJSON file for every slide, or a folder with one for each, named as the slide's id or file.

    Raises:
        HistillError: input (4) if there is no such path, no GeoJSON in the folder, or the one file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
        self._files = {_slide_of(file): file for file in found if file == path or file.name.lower().endswith(SUFFIXES)}
        if not self._files:
            raise HistillError(
                "there is no GeoJSON here", code=Exit.INPUT, subject=str(path), mend="Export annotations from QuPath"
            )
        # One file for every slide is read at once: were it damaged, no slide would be to blame.
        self._every = None if path.is_dir() else _areas(path)

    @property
    def digest(self) -> str:
        """A hash of all that the regions are."""
        return fingerprint({name: file_hash(file) for name, file in self._files.items()})

    def of(self, sample: Sample) -> list[Area]:
        """The regions of a slide.

        Raises:
            HistillError: usage (2) if the folder holds none for this slide; input (4) if it cannot be read.
        """
        if self._every is not None:
            return self._every
        file = self._files.get(sample.id) or self._files.get(sample.path.stem)
        if file is None:
            raise HistillError(
                f"there are no regions for the slide {sample.id}",
                code=Exit.USAGE,
                subject=str(self.path),
                mend=f"Add {sample.path.stem}.geojson, or leave the slide out",
            )
        return _areas(file)


def _areas(file: Path) -> list[Area]:
    return [outline.area for outline in read_geojson(file)]


def _slide_of(file: Path) -> str:
    ending = next((each for each in SUFFIXES if file.name.lower().endswith(each)), "")
    return file.name[: len(file.name) - len(ending)]
