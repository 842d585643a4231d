"""What the names of files say: labels in brackets, which files belong together, whose an image is; and all faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Sample, patients_in_two_splits, table_error
from histill.data.sources.loose import SUFFIXES

SPLIT_FOLDERS = {
    "train": ("train", "training", "1.training"),
    "val": ("val", "valid", "validation", "2.validation"),
    "test": ("test", "testing", "3.testing"),
}
"""What the folder of each split is called in published sets and their copies."""

TCGA = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])")
"""A barcode of The Cancer Genome Atlas down to the patient."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_DIGITS = re.compile(r"\s*[01](?:[\s,_]*[01])*\s*")

Progress = Callable[[int, int], None]
"""Is told how far a step has come: (done, in all)."""

Counters = Callable[[str], Progress]
"""What is being done -> who is told how far it has come."""


def quiet(doing: str) -> Progress:
    """Counters for those who do not look."""
    return lambda done, of: None


class Faults:
    """Everything that is wrong with a data set's files, for one report.

    Args:
        folder: the data set's; files are named as seen from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: list[str] = []
        self._mends: dict[str, None] = {}

    def add(self, path: Path, what: str, mend: str = "") -> None:
        """Note what is wrong with a file, and how it is mended."""
        name = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        self._lines.append(f"{name.as_posix()}: {what}")
        if mend:
            self._mends[mend] = None

    def add_error(self, path: Path, error: HistillError) -> None:
        """Note an error as the fault of a file."""
        self.add(path, error.what, error.mend)

    def close(self) -> None:
        """Raise one usage error with every fault, if there are any."""
        if self._lines:
            raise table_error(self.folder, self._lines, ". ".join(self._mends))


def label_in(stem: str, classes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The name and the labels in a file's stem: one digit for each class, inside the last pair of brackets.

    ``12-30-40-[1 0 0 1]``, ``[1001]``, ``[1, 0, 0, 1]`` and ``[1_0_0_1]`` all occur; the name is what is left.

    Raises:
        ValueError: there are no brackets, not just so many digits of 0 and 1 in them, no 1 among these, or no name.
    """
    found = list(_BRACKETS.finditer(stem))
    if not found:
        raise ValueError("the name holds no label, such as [" + " ".join("1" * len(classes)) + "]")
    last = found[-1]
    digits = [character for character in last[1] if character in "01"]
    if not _DIGITS.fullmatch(last[1]) or len(digits) != len(classes):
        raise ValueError(f"the label {last[0]} is not {len(classes)} digits of 0 and 1 ({', '.join(classes)})")
    labels = tuple(name for name, digit in zip(classes, digits, strict=True) if digit == "1")
    if not labels:
        raise ValueError(f"the label {last[0]} names no class")
    name = (stem[: last.start()] + stem[last.end() :]).strip(" -_")
    if not name:
        raise ValueError("the name is nothing but a label")
    return name, labels


def split_folders(folder: Path, faults: Faults) -> dict[str, Path]:
    """The folders of a data set that hold its splits.

    Raises:
        HistillError: input (4) if there is none.
    """
    found = _split_folders(folder)
    if not found:
        near = next((each for each in sorted(_folders(folder)) if _split_folders(each)), None)
        raise HistillError(
            "there is no folder train, val or test in it",
            code=Exit.INPUT,
            subject=str(folder),
            mend=f"Name the data set's own folder{f', {near}' if near else ''}",
        )
    for split, places in found.items():
        for place in places[1:]:
            faults.add(place, f"{places[0].name} is {split} as well", "Keep one folder of a split")
    # Unpacked archives often hold a folder once more in itself.
    twice = {split: places[0] / places[0].name for split, places in found.items()}
    return {split: twice[split] if twice[split].is_dir() else places[0] for split, places in found.items()}


def _split_folders(folder: Path) -> dict[str, list[Path]]:
    lying = sorted(_folders(folder))
    places = {split: [each for each in lying if each.name.lower() in names] for split, names in SPLIT_FOLDERS.items()}
    return {split: found for split, found in places.items() if found}


def _folders(folder: Path) -> Iterable[Path]:
    return (each for each in folder.glob("[!.]*") if each.is_dir())


def by_stem(folder: Path, faults: Faults) -> dict[str, Path]:
    """The images of a folder, in the order of their names, by stem in lower case; a stem twice is a fault."""
    found: dict[str, Path] = {}
    for file in images_in(folder):
        if found.setdefault(file.stem.lower(), file) != file:
            faults.add(file, f"{found[file.stem.lower()].name} has this name too", "Keep one of them")
    return found


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder, hidden files aside, in the order of their names."""
    return sorted(each for each in folder.glob("[!.]*") if each.suffix.lower() in SUFFIXES and each.is_file())


def official_if_shared(card: DatasetCard, samples: Iterable[Sample]) -> DatasetCard:
    """A card that says so if patients stand in two splits, as published splits have it."""
    shared = patients_in_two_splits(samples)
    return card.model_copy(update={"split_source": "official"}) if shared else card
