"""Files without a table: what a folder or a single path holds, as samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.core.record import fingerprint
from histill.data.bags import SUFFIXES as BAG_SUFFIXES
from histill.data.bags import find_bags
from histill.slides.open import SUFFIXES as SLIDE_SUFFIXES
from histill.slides.open import slide_paths

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def loose_images(path: Path, card: DatasetCard) -> Manifest:
    """An image, or all images below a folder in the order of their names, with the classes of a card.

    Raises:
        HistillError: input (4) if there is no such path, or no image below it.
    """
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        names = [file.relative_to(path).as_posix() for file in files]
    else:
        files, names = ([path], [path.name]) if path.is_file() else ([], [])
    return _listed(path, files, names, card, SUFFIXES)


def loose_slides(path: Path, card: DatasetCard) -> Manifest:
    """A slide, or all slides below a folder. A slide's id is its file's stem, as other tools have it.

    Two files of one stem are told apart by their folders and endings.

    Raises:
        HistillError: input (4) if there is no such path, or no slide below it.
    """
    files = slide_paths(path) if path.is_dir() else [path] if path.is_file() else []
    often = Counter(file.stem for file in files)
    names = [file.stem if often[file.stem] == 1 else file.relative_to(path).as_posix() for file in files]
    return _listed(path, files, names, card, SLIDE_SUFFIXES)


def loose_bags(path: Path, card: DatasetCard) -> Manifest:
    """A feature file, or all feature files below a folder, by their slides' ids. Raises as `find_bags`."""
    if path.is_file():
        return _listed(path, [path], [path.stem], card, BAG_SUFFIXES)
    bags = find_bags(path)
    return _listed(path, list(bags.values()), list(bags), card, BAG_SUFFIXES)


def _listed(
    path: Path, files: Sequence[Path], names: Sequence[str], card: DatasetCard, known: Sequence[str]
) -> Manifest:
    if not files:
        raise HistillError(
            "there is no such file here", code=Exit.INPUT, subject=str(path), mend=f"Known: {', '.join(known)}"
        )
    samples = tuple(
        Sample(id=name, path=file, patient=name) for name, file in zip(_told_apart(names), files, strict=True)
    )
    return Manifest(samples, card, path, fingerprint(list(names)))


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names as ids: those that differ in case alone are numbered, as their results may go where case is ignored."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name.lower()] += 1
        found.append(name if seen[name.lower()] == 1 else f"{name} ({seen[name.lower()]})")
    return found
