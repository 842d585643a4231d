"""Image files without a table: what a folder or a single path holds, as samples."""

from __future__ import annotations

from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.core.record import fingerprint

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
    if not files:
        raise HistillError(
            "there is no image here", code=Exit.INPUT, subject=str(path), mend=f"Known: {', '.join(SUFFIXES)}"
        )
    samples = tuple(Sample(id=name, path=file, patient=name) for name, file in zip(names, files, strict=True))
    return Manifest(samples, card, path, fingerprint(names))
