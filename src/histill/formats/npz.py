"""NumPy archives (.npz) of others, opened with care: no pickle, no more memory than the file is worth."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from histill.core.bags import bag_error
from histill.core.errors import Exit
from histill.formats.guards import COPY_AGAIN, DAMAGED, check_inflated, file_size, reading

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays that the archive has, by name.

    Raises:
        HistillError: input (4) if it is missing, damaged, or no archive; unsafe (5) if an array is a pickle, or claims
            far more than is stored.
    """
    file_size(path)
    with reading(path), zipfile.ZipFile(path) as archive:
        held = set(archive.namelist())
        return {name: _array(path, archive, f"{name}.npy") for name in names if f"{name}.npy" in held}


def is_npz(path: Path) -> bool:
    """Whether a plain file is an archive of arrays; False too where it cannot be read."""
    with contextlib.suppress(*DAMAGED), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())
    return False


def _array(path: Path, archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    info = archive.getinfo(member)
    check_inflated(path, member, info.file_size, info.compress_size)
    with archive.open(info) as file:
        shape, dtype = _header(file)
        if dtype.hasobject:
            what = f"refused: '{member}' is a pickle, which could run code"
            raise bag_error(str(path), what, "Save plain arrays of numbers", Exit.UNSAFE)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise bag_error(str(path), f"'{member}' is cut off: it claims an array of {list(shape)}", COPY_AGAIN)
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"arrays of version {version}")
    shape, _, dtype = _HEADERS[version](file)
    return shape, dtype
