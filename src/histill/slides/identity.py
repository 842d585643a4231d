"""Whether a slide is still the same: its fingerprint, for results on disk, and a snapshot, for while it is read."""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histill.core.errors import Exit, HistillError

WHOLE = 64 << 20
END = 1 << 20
BLOCK = 64 << 10
BLOCKS = 64

HEADER = 64 << 10
"""How much of a DICOM file is searched for its series, which comes before all that is long."""
# Study and series, side by side: so they stand in the data set itself, while a reference to some other series has no
# study before it. Explicit little-endian, as whole slides are. DICOM PS3.3, C.7.2.1 and C.7.3.1; PS3.5, 7.1.
_SERIES = re.compile(rb"\x20\x00\x0d\x00UI..[0-9.\0]{0,64}\x20\x00\x0e\x00UI..([0-9.]{1,64})", re.DOTALL)


@dataclass(frozen=True)
class Snapshot:
    """How a slide's files look from outside: name, size in bytes, time of change in ns, and inode of each."""

    files: tuple[tuple[str, int, int, int], ...]


def fingerprint_slide(path: Path) -> str:
    """The sha256 over what a slide holds, as hex. Its name, its place and its times do not matter.

    Up to 64 MiB a file counts whole. Of a larger one count the size, the first and the last MiB, and 64 blocks of
    64 KiB spread evenly. That misses a change in place between the blocks: a flipped bit, a tile painted over. A file
    that is written anew has another size or other tables.

    A MIRAX slide (.mrxs) counts with the files of its folder: those of pixels (Data*.dat) by name and size alone, the
    others as above. A DICOM file counts with those of the same series beside it. Any other file counts alone.

    Raises:
        HistillError: input (4) if the file is missing, not a regular file, or cannot be read.
    """
    with _input_errors(path):
        pieces = []
        for part in _parts(path):
            # The names inside a MIRAX folder mean something; its own and those of DICOM files do not.
            name = part.name if part.parent != path.parent else ""
            pixels = re.fullmatch(r"data.*\.dat", name.lower())
            pieces.append((name, f"{part.stat().st_size} bytes" if pixels else _digest(part)))
    return hashlib.sha256(repr(sorted(pieces)).encode()).hexdigest()


def snapshot(path: Path) -> Snapshot:
    """How a slide's files look now; see `still`. Costs a look at each file, and at a DICOM file's header.

    Raises:
        HistillError: input (4) as `fingerprint_slide`.
    """
    with _input_errors(path):
        return _look(path)


def still(path: Path, before: Snapshot) -> None:
    """See that a slide's files have not been touched since a snapshot.

    A change within a few milliseconds of the snapshot that leaves the size as it was may go unseen: file systems count
    time in such steps.

    Raises:
        HistillError: input (4) if one has changed, come, or gone.
    """
    with _input_errors(path):
        try:
            same = _look(path) == before
        except FileNotFoundError:
            same = False
    if not same:
        raise changed(path)


def changed(path: Path) -> HistillError:
    """The error of a slide that is not the same at the end of reading as at its beginning."""
    return HistillError(
        "the file changed while it was read",
        code=Exit.INPUT,
        subject=str(path),
        mend="Wait until it is copied whole, and start again",
    )


def _look(path: Path) -> Snapshot:
    stats = [(part.name, part.stat()) for part in _parts(path)]
    return Snapshot(tuple(sorted((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in stats)))


def _parts(path: Path) -> list[Path]:
    """The files that a slide consists of."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise HistillError(
            "this is not a file", code=Exit.INPUT, subject=str(path), mend="Name the slide's file, not its folder"
        )
    if path.suffix.lower() == ".mrxs":
        folder = path.with_suffix("")
        return [path, *(each for each in folder.iterdir() if each.is_file())] if folder.is_dir() else [path]
    series = dicom_series(path)
    if series is None:
        return [path]
    return [each for each in path.parent.iterdir() if each.is_file() and dicom_series(each) == series]


def dicom_series(path: Path) -> bytes | None:
    """The unique id of a DICOM file's series; None if it is no DICOM file, does not say, or may not be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(132)[128:] == b"DICM" and (found := _SERIES.search(file.read(HEADER))):
            return found[1]
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        size = path.stat().st_size
        content = hashlib.sha256(f"{size} ".encode())
        for start, length in _places(size):
            file.seek(start)
            content.update(file.read(length))
    return content.hexdigest()


def _places(size: int) -> list[tuple[int, int]]:
    """Start and length of what counts of a file."""
    if size <= WHOLE:
        return [(start, END) for start in range(0, size, END)]
    last = size - END
    between = [END + (last - BLOCK - END) * block // (BLOCKS - 1) for block in range(BLOCKS)]
    return [(0, END), *((start, BLOCK) for start in between), (last, END)]


@contextlib.contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise HistillError(
            "there is no such file", code=Exit.INPUT, subject=str(path), mend="Correct the path"
        ) from None
    except (OSError, ValueError) as error:  # A null character in the name is the latter.
        raise HistillError(
            f"the file cannot be read: {getattr(error, 'strerror', None) or error}",
            code=Exit.INPUT,
            subject=str(path),
            mend="Check its permissions and the disk it lies on",
        ) from error
