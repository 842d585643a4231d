"""Files in MXNet's format, written from its description: a list of arrays, then a list of their names."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
CPU = struct.pack("<ii", 1, 0)


def one_array(array: NDArray[Any], version: int) -> bytes:
    """An array as version 0 (before there were versions), 1 or 2 writes it."""
    if version == 0:
        head = struct.pack("<I", array.ndim) + b"".join(struct.pack("<I", side) for side in array.shape)
    else:
        head = struct.pack("<I", 0xF993FAC7 + version) + (struct.pack("<i", 0) if version == 2 else b"")
        head += struct.pack("<I", array.ndim) + b"".join(struct.pack("<q", side) for side in array.shape)
    kind = struct.pack("<i", TYPES.index(array.dtype.name))
    return head + CPU + kind + array.astype(array.dtype.newbyteorder("<")).tobytes()


def listed(arrays: list[bytes], names: list[bytes]) -> bytes:
    """A file of arrays and names that are bytes already."""
    found = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names))
    return found + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def params_file(arrays: Mapping[str, NDArray[Any]], version: int = 2) -> bytes:
    """A whole file."""
    return listed(
        [one_array(np.asarray(array), version) for array in arrays.values()], [name.encode() for name in arrays]
    )
