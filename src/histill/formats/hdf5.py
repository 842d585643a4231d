"""HDF5 files of others, opened with care: what they claim is looked at before a number is read.

An HDF5 file can point elsewhere (soft and external links, virtual and external storage), claim terabytes in a few
bytes, name filters that the library would load as programs, and be right in shape with nothing ever written into it.
None of that is followed: what is not plainly in the file is refused.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5l
from numpy.typing import NDArray

from histill.core.bags import EXTRACT_AGAIN, Corners, bag_error
from histill.core.errors import Exit, HistillError
from histill.formats.guards import COPY_AGAIN, DAMAGED, check_inflated, file_size, reading, shown

MOST_ATTRIBUTE_BYTES = 1 << 16

FILTERS = frozenset({1, 2, 3, 5, 6, 32000})
"""gzip, shuffle, fletcher32, nbit, scaleoffset and lzf, which h5py has built in. For others the library would look for
programs on this machine."""

BLOCK_BYTES = 8 << 20
"""read in one go"""


class Hdf5:
    """A file whose arrays are read by name; close it, or use it in a with statement.

    Raises:
        HistillError: input (4) if it is missing, not a plain file, empty, cut off, damaged, being written, or not HDF5.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = file_size(path)
        with reading(path):
            if not h5py.is_hdf5(path):
                raise bag_error(str(path), "not an HDF5 file, or one whose head is damaged", COPY_AGAIN)
            # No cache of chunks: rows go from the file to where they are wanted, without a copy in between.
            self._file = h5py.File(path, "r", rdcc_nbytes=0, locking="best-effort")

    def __contains__(self, name: str) -> bool:
        # Not `in` of h5py: it would follow links to other files.
        with reading(self.path):
            return bool(self._file.id.links.exists(name.encode()))

    def array(self, name: str, kinds: str, ranks: tuple[int, ...]) -> Hdf5Array:
        """An array of numbers, looked at but not read.

        Args:
            name: on the file's first level.
            kinds: numpy's letters of the kinds of numbers that are taken, such as ``f``.
            ranks: how many dimensions it may have.

        Raises:
            HistillError: input (4) if it is missing, of another type or rank, or not all written; unsafe (5) if it is
                stored elsewhere, packed by an unknown filter, or larger than any array of features.
        """
        with reading(self.path):
            found = self._plain(name)
            if found.dtype.kind not in kinds or found.dtype.itemsize > 8:
                raise bag_error(str(self.path), f"'{name}' is of type {found.dtype}", EXTRACT_AGAIN)
            if found.shape is None or len(found.shape) not in ranks:
                dimensions = " or ".join(map(str, ranks))
                what = f"'{name}' is of shape {list(found.shape or ())}, not of {dimensions} dimensions"
                raise bag_error(str(self.path), what, EXTRACT_AGAIN)
            self._check_size(name, found)
            return Hdf5Array(self.path, found)

    def has(self, name: str) -> bool:
        """Whether the file as a whole has such an attribute, whatever it says."""
        return _has(self.path, self._file, name)

    def number(self, name: str) -> float | None:
        """An attribute of the whole file; see `Hdf5Array.number`."""
        return _number(self.path, self._file, name)

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(*DAMAGED):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plain(self, name: str) -> h5py.Dataset:
        """A data set that lies in this file, and is reached without following anything."""
        if name not in self:
            held = shown(", ".join(sorted(self._file.keys())[:8])) or "nothing"
            raise bag_error(str(self.path), f"it holds no '{name}', but {held}", "Give a file of features")
        if self._file.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise _elsewhere(self.path, name, "a link, which may lead anywhere")
        found = self._file[name]
        if not isinstance(found, h5py.Dataset):
            raise bag_error(str(self.path), f"'{name}' is no array", "Give a file of features")
        made = found.id.get_create_plist()
        if made.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED) or made.get_external_count():
            raise _elsewhere(self.path, name, "stored in other files")
        for index in range(made.get_nfilters()):
            number, _, _, label = made.get_filter(index)
            if number not in FILTERS:
                what = f"'{name}' is packed by the filter {number} ({shown(label.decode(errors='replace'))})"
                raise bag_error(str(self.path), what, "Repack it: h5repack -f GZIP=4 IN OUT", Exit.UNSAFE)
        return found

    def _check_size(self, name: str, found: h5py.Dataset) -> None:
        """See that all that the array claims is there, and that it is no bomb."""
        one = found.dtype.itemsize
        held, pieces, largest = math.prod(found.shape) * one, 1, 0
        if not held:
            return
        if found.chunks:
            pieces = math.prod(-(-side // step) for side, step in zip(found.shape, found.chunks, strict=True))
            largest = math.prod(found.chunks) * one
        # Before the pieces are counted, which takes long if there are many.
        stored = found.id.get_storage_size()
        check_inflated(self.path, name, max(held, largest), self.size)
        if stored > self.size:
            raise bag_error(str(self.path), f"'{name}' claims {stored:,} bytes of a file of {self.size:,}", COPY_AGAIN)
        written = found.id.get_num_chunks() if found.chunks else int(stored > 0)
        if written < pieces:
            what = f"'{name}' was never written whole: {pieces - written:,} of its {pieces:,} pieces are missing"
            raise bag_error(str(self.path), what, EXTRACT_AGAIN)
        check_inflated(self.path, name, max(held, largest), stored)


class Hdf5Array:
    """An array in a file that has been looked at; slices of rows bring it to memory."""

    def __init__(self, path: Path, found: h5py.Dataset) -> None:
        self.path, self._found = path, found
        self.shape: tuple[int, ...] = found.shape
        self.dtype: np.dtype[Any] = found.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Rows in this machine's order of bytes; float64 as float32, which runs over into infinity where it must."""
        start, stop, _ = rows.indices(self.shape[0])
        native = self.dtype.newbyteorder("=")
        kind = np.float32 if native == np.float64 else native
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        deep = self._found.chunks[0] if self._found.chunks else 1
        # Whole chunks at a time, so that none is unpacked twice.
        step = max(1, BLOCK_BYTES // (deep * row_bytes)) * deep
        with reading(self.path):
            out = np.empty((max(0, stop - start), *self.shape[1:]), kind)
            at = start
            while at < stop:
                # The first block ends where a chunk does.
                end = min(stop, (at // step + 1) * step)
                self._found.read_direct(out, np.s_[at:end], np.s_[at - start : end - start])
                at = end
        return out

    def values(self) -> NDArray[Any]:
        """All of it, as it is in the file."""
        with reading(self.path):
            return np.asarray(self._found[()])

    def has(self, name: str) -> bool:
        """Whether it has such an attribute, whatever it says."""
        return _has(self.path, self._found, name)

    def number(self, name: str) -> float | None:
        """An attribute that is a finite number; None where there is none, or where it is a text such as 'None'.

        Raises:
            HistillError: input (4) if it is an array, or not finite.
        """
        return _number(self.path, self._found, name)

    def whole(self, name: str) -> int | None:
        """An attribute that is a number above 0, rounded; None as `number`."""
        found = self.number(name)
        return round(found) if found is not None and found >= 1 else None

    def text(self, name: str) -> str:
        """An attribute that is a text of fixed length; empty where there is none. It never becomes a path.

        Texts of free length lie in a heap of the file. HDF5 (2.0) can read on without end in a damaged one, so these
        are not read at all.
        """
        values = _values(self.path, self._found, name, "S", most=1)
        return values[0].decode("utf-8", "replace") if values else ""

    def pair(self, name: str) -> tuple[float, float] | None:
        """An attribute of two numbers; None where there is none."""
        values = _values(self.path, self._found, name, "iuf", most=2)
        return (float(values[0]), float(values[1])) if len(values) == 2 else None


def read_corners(array: Hdf5Array) -> Corners:
    """The coordinates of tiles in level-0 px, int64 [n, 2], rounded where the file has fractions."""
    values = array.values()
    if values.dtype.kind == "u":
        values = np.minimum(values, np.iinfo(np.int64).max)
    if values.dtype.kind == "f":
        # What is not finite becomes a place that no slide has, and is refused as that.
        with np.errstate(invalid="ignore"):
            values = np.nan_to_num(np.rint(values.astype(np.float64)), nan=2**62, posinf=2**62, neginf=-(2**62))
        values = np.clip(values, -(2**62), 2**62)
    return values.astype(np.int64)


def _has(path: Path, owner: Any, name: str) -> bool:
    with reading(path):
        return bool(h5a.exists(owner.id, name.encode()))


def _number(path: Path, owner: Any, name: str) -> float | None:
    values = _values(path, owner, name, "iuf", most=1)
    if values and not math.isfinite(values[0]):
        raise bag_error(str(path), f"its attribute '{name}' is {values[0]}")
    return float(values[0]) if values else None


def _values(path: Path, owner: Any, name: str, kinds: str, most: int) -> list[Any]:
    """An attribute's values, at most so many; nothing where there is none, or where it is of another kind."""
    with reading(path):
        if not _has(path, owner, name):
            return []
        found = h5a.open(owner.id, name.encode())
        # The type is looked at before the value is read, which may be anything, and of any size.
        if found.dtype.kind not in kinds:
            return []
        if math.prod(found.shape) > most or found.get_storage_size() > MOST_ATTRIBUTE_BYTES:
            raise bag_error(str(path), f"its attribute '{name}' is an array")
        return list(np.ravel(owner.attrs[name]).tolist())


def _elsewhere(path: Path, name: str, how: str) -> HistillError:
    what = f"'{name}' is {how}, and is not followed"
    return bag_error(str(path), what, "Make a file that holds all itself: h5repack IN OUT", Exit.UNSAFE)
