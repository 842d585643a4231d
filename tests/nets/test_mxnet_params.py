"""MXNet's files, read without MXNet: every version and type, and nothing damaged."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from params_files import CPU, TYPES, listed, one_array, params_file

from histill.core.errors import Exit, HistillError
from histill.nets.mxnet_params import read_mxnet_params
from histill.nets.weights import is_file, read_weights

ARRAYS = {
    "arg:conv_weight": np.arange(6, dtype="float32").reshape(1, 3, 2, 1) / 7,
    "aux:bn_moving_var": np.array([1.5, -2.0], "float64"),
    "é": np.zeros((0, 3), "float32"),
}
ONE = one_array(np.ones((2, 3), "float32"), 2)


def read(data: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "w.params"
    path.write_bytes(data)
    return read_mxnet_params(path)


def refused(data: bytes, folder: Path) -> HistillError:
    with pytest.raises(HistillError) as caught:
        read(data, folder)
    assert caught.value.code == Exit.INPUT
    assert caught.value.subject == str(folder / "w.params")
    assert caught.value.mend
    return caught.value


def test_a_file_written_down_byte_by_byte(tmp_path: Path) -> None:
    # One array [[1, 2]] of float32 named "arg:w", in the second version.
    data = bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"  # magic, reserved, one array
        "c9fa93f9 00000000 02000000 0100000000000000 0200000000000000"  # version 2, dense, 2 dimensions: 1, 2
        "01000000 00000000 00000000 0000803f 00000040"  # CPU, its number 0, float32, 1.0, 2.0
        "0100000000000000 0500000000000000 6172673a77"  # one name of 5 bytes
    )
    found = read(data, tmp_path)
    assert list(found) == ["arg:w"]
    np.testing.assert_array_equal(found["arg:w"], np.array([[1, 2]], "float32"), strict=True)
    assert params_file(found) == data


@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_version_gives_the_same_arrays(version: int, tmp_path: Path) -> None:
    found = read(params_file(ARRAYS, version), tmp_path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_number(kind: str, tmp_path: Path) -> None:
    array = np.array([[1, 2, 100]], kind)
    np.testing.assert_array_equal(read(params_file({"x": array}), tmp_path)["x"], array, strict=True)


def test_they_become_tensors_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "w.params"
    path.write_bytes(params_file(ARRAYS))
    assert is_file(str(path))
    found = read_weights(path)
    assert found["arg:conv_weight"].tolist() == ARRAYS["arg:conv_weight"].tolist()
    found["arg:conv_weight"] += 1
    assert torch.equal(read_weights(path)["arg:conv_weight"] + 1, found["arg:conv_weight"])


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_file_cut_anywhere_is_refused(version: int, tmp_path: Path) -> None:
    data = params_file(ARRAYS, version)
    for length in range(len(data)):
        refused(data[:length], tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), version=st.integers(0, 2))
def test_a_changed_byte_never_ends_in_anything_else(at: int, value: int, version: int, tmp_path: Path) -> None:
    data = bytearray(params_file(ARRAYS, version))
    data[at % len(data)] = value
    found = None
    with contextlib.suppress(HistillError):
        found = read(bytes(data), tmp_path)
    assert found is None or len(found) == len(ARRAYS)


HUGE = struct.pack("<IiIqq", 0xF993FAC9, 0, 2, 2**40, 2**40) + CPU + struct.pack("<i", 0)
EMPTY = struct.pack("<IiIqq", 0xF993FAC9, 0, 2, 0, 2**62) + CPU + struct.pack("<i", 0)
NEGATIVE = struct.pack("<IiIqq", 0xF993FAC9, 0, 2, -2, -3) + CPU + struct.pack("<i", 0) + bytes(24)
STRANGE = struct.pack("<IiIq", 0xF993FAC9, 0, 1, 1) + CPU + struct.pack("<i", 12) + bytes(4)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no MXNet list"),
        (b"PK\x03\x04 these are not weights" * 9, "no MXNet list"),
        (listed([HUGE], [b"x"]), "cut short"),
        (listed([EMPTY], [b"x"]), "shape"),
        (listed([NEGATIVE], [b"x"]), "shape"),
        (listed([STRANGE], [b"x"]), "type 12"),
        (listed([struct.pack("<Ii", 0xF993FAC9, 1) + ONE[8:]], [b"x"]), "sparse"),
        (listed([struct.pack("<I", 0xF993FACA) + ONE[4:]], [b"x"]), "unknown version"),
        (listed([struct.pack("<IiI", 0xF993FAC9, 0, 0)], [b"x"]), "without a shape"),
        (listed([struct.pack("<IiI", 0xF993FAC9, 0, 2**31) + ONE[12:]], [b"x"]), "shape"),
        (struct.pack("<QQQ", 0x112, 0, 2**63) + ONE, "cut short"),
        (listed([ONE], []), "0 names for 1"),
        (listed([ONE], [b"x", b"y"]), "2 names for 1"),
        (listed([ONE, ONE], [b"x", b"x"]), "two arrays named 'x'"),
        (listed([ONE], [b"\xff\xfe"]), "no text"),
        (listed([ONE], [])[:-8] + struct.pack("<QQ", 1, 2**62), "cut short"),
        (params_file(ARRAYS) + b"\0", "1 bytes after its end"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, told: str, tmp_path: Path) -> None:
    assert told in refused(data, tmp_path).what


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="no such") as caught:
        read_weights(tmp_path / "w.params")
    assert caught.value.code == Exit.INPUT
