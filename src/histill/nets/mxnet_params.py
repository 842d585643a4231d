"""Reading of MXNet's ``.params`` files, without MXNet: a list of arrays, then a list of their names.

Little-endian throughout. A file is: u64 0x112, u64 reserved, u64 number of arrays, the arrays, u64 number of names, and
per name u64 length and its bytes. An array is: u32 version, i32 storage type (version 2 only), u32 number of dimensions
and one i64 each, i32 device type, i32 device number, i32 type of number, and the raw numbers. The first files have no
version: the number of dimensions stands in its place, and each is a u32. Written from the format's public description.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError

LIST_MAGIC = 0x112
VERSION_1, VERSION_2 = 0xF993FAC8, 0xF993FAC9
DENSE = 0
MOST_DIMENSIONS = 8
NUMBER_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}


def read_mxnet_params(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.params`` file, by the names they have in it, such as "arg:conv1a_weight".

    No more memory is asked for than the file is long, and no code of the file's is run.

    Raises:
        HistillError: input (4) if the file is of another kind, torn, damaged or without names.
    """
    with path.open("rb") as stream:
        return _Reader(stream, path).read()


class _Reader:
    """One pass over a file; whatever a length in it claims is held against what is left of it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.left = os.fstat(stream.fileno()).st_size

    def read(self) -> dict[str, NDArray[Any]]:
        if self.left < 8 or self.take("Q") != LIST_MAGIC:
            raise self.fault("is no MXNet list of arrays")
        self.take("Q")
        arrays = [self.array() for _ in range(self.take("Q"))]
        named = self.take("Q")
        if named != len(arrays):
            raise self.fault(f"holds {named} names for {len(arrays)} arrays")
        found: dict[str, NDArray[Any]] = {}
        for array in arrays:
            name = self.name()
            if name in found:
                raise self.fault(f"holds two arrays named '{name}'")
            found[name] = array
        if self.left:
            raise self.fault(f"goes on for {self.left} bytes after its end")
        return found

    def array(self) -> NDArray[Any]:
        version = self.take("I")
        if version == VERSION_2 and self.take("i") != DENSE:
            raise self.fault("holds a sparse array")
        new = version in (VERSION_1, VERSION_2)
        dimensions = self.take("I") if new else version
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise self.fault("holds an array without a shape, or of an unknown version")
        shape = [self.take("q" if new else "I") for _ in range(dimensions)]
        self.take("i"), self.take("i")  # the device it was saved from
        kind = self.take("i")
        if min(shape) < 0 or kind not in NUMBER_TYPES:
            raise self.fault(f"holds an array of shape {shape} and type {kind}, which is none")
        dtype = np.dtype(NUMBER_TYPES[kind])
        data = self.some(math.prod(shape) * dtype.itemsize)
        try:
            return np.frombuffer(data, dtype).reshape(shape)
        except ValueError:  # one side is 0, the others are longer than can be counted
            raise self.fault(f"holds an array of shape {shape}, which is none") from None

    def name(self) -> str:
        try:
            return self.some(self.take("Q")).decode()
        except UnicodeDecodeError:
            raise self.fault("holds a name that is no text") from None

    def take(self, kind: str) -> int:
        """One whole number of a kind that struct knows."""
        number: int = struct.unpack(f"<{kind}", self.some(struct.calcsize(f"<{kind}")))[0]
        return number

    def some(self, size: int) -> bytearray:
        """The next bytes, in a buffer that may be written to, as torch wants it."""
        if size > self.left:
            raise self.fault(f"is cut short: {size} bytes should follow, {self.left} do")
        data = bytearray(size)
        if self.stream.readinto(data) != size:  # type: ignore[attr-defined]
            raise self.fault("became shorter while it was read")
        self.left -= size
        return data

    def fault(self, what: str) -> HistillError:
        return HistillError(
            f"cannot be read as MXNet parameters: it {what}",
            code=Exit.INPUT,
            subject=str(self.path),
            mend="Fetch the file again, or convert it to safetensors",
        )
