"""HDF5 of others: nothing is followed out of a file, no claim is believed, no damage ends in anything but one error."""

import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5p, h5s

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import clam, failing, features, places, trident

from histill.core.errors import Exit, HistillError
from histill.data.bags import open_bag, read_bag
from histill.formats import guards, hdf5
from histill.formats.hdf5 import Hdf5

X, PLACES = features(), places()
Write = Callable[[h5py.File], object]


def made(path: Path, write: Write) -> Path:
    with h5py.File(path, "w") as file:
        write(file)
    return path


# --- plain files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, 6)},
        {"chunks": (7, 4)},
        {"chunks": (300, 6), "compression": "gzip"},
        {"chunks": (16, 6), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"chunks": (10, 6), "maxshape": (None, 6)},
    ],
)
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8"])
def test_any_layout_of_the_same_numbers(options: dict[str, object], kind: str, tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("features", data=X.astype(kind), **options))
    expected = X.astype(kind).astype(np.float16 if kind == "<f2" else np.float32)
    with Hdf5(path) as file:
        array = file.array("features", "f", (2,))
        for start, stop in ((0, 300), (0, 1), (5, 23), (299, 300), (16, 32), (3, 3)):
            found = array[start:stop]
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected[start:stop])


def test_blocks_of_a_large_array_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 1000)
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("features", data=X, chunks=(32, 6), compression="gzip"))
    with Hdf5(path) as file:
        np.testing.assert_array_equal(file.array("features", "f", (2,))[7:290], X[7:290])


def test_features_stay_on_the_disk_until_they_are_asked_for(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.update(features=np.zeros((1000, 1000), "f4"), coords=places(1000)))
    with open_bag(path) as file:
        assert file.shape == (1000, 1000)
    with open_bag(clam(tmp_path / "b.h5", X, PLACES)) as file:
        np.testing.assert_array_equal(file.features(10, 20), X[10:20])


# --- what is no file of features --------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    assert "no such file" in failing(open_bag, tmp_path / "none.h5")
    assert "no such file" in failing(open_bag, clam(tmp_path / "a.h5", X, PLACES) / "b.h5")
    assert "not a plain file" in failing(open_bag, tmp_path)
    assert "cannot be read" in failing(open_bag, tmp_path / "a\0b.h5")
    (tmp_path / "empty.h5").touch()
    assert "empty file" in failing(open_bag, tmp_path / "empty.h5")
    (tmp_path / "text.h5").write_text("features" * 1000)
    assert "not an HDF5 file" in failing(open_bag, tmp_path / "text.h5")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    assert "not a plain file" in failing(open_bag, tmp_path / "pipe.h5")


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = clam(tmp_path / "a.h5", X, PLACES)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 in another process does
        assert "being written" in failing(Hdf5, path)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda f: f.update(coords=PLACES), "coordinates without features"),
        (lambda f: f.update({"x\x1b[31m": X}), "no features"),
        (lambda f: f.create_group("features"), "'features' is no array"),
        (lambda f: f.update(features=np.dtype("f4")), "'features' is no array"),
        (lambda f: f.update(features=X.astype("i4")), "'features' is of type int32"),
        (lambda f: f.update(features=X.astype("c8")), "'features' is of type complex64"),
        (lambda f: f.update(features=["a", "b"]), "'features' is of type object"),
        (lambda f: f.update(features=X.view("f4,f4")), "'features' is of type"),
        (lambda f: f.update(features=X[0]), "not of 2 dimensions"),
        (lambda f: f.update(features=X[None]), "[1, 300, 6], not of 2 dimensions"),
        (lambda f: f.update(features=1.0), "not of 2 dimensions"),
        (lambda f: f.update(features=h5py.Empty("f4")), "not of 2 dimensions"),
        (lambda f: f.update(features=X, coords=PLACES[:200]), "300 features, but 200 coordinates"),
        (lambda f: f.update(features=X, coords=PLACES[:, 0]), "'coords' is of shape [300]"),
        (lambda f: f.update(features=X, coords=np.zeros((300, 3), "i8")), "not [n, 2]"),
        (lambda f: f.update(features=X, coords=PLACES.astype("S9")), "'coords' is of type"),
        (lambda f: f.update(features=X, coords=np.where(PLACES > 4000, np.nan, PLACES)), "no places on a slide"),
        (lambda f: f.update(features=X, coords=PLACES.astype("u8") + 2**63), "no places on a slide"),
        (lambda f: f.update(features=X[:, :0], coords=PLACES), "not [n, d]"),
    ],
)
def test_arrays_that_are_none_of_features(write: Write, what: str, tmp_path: Path) -> None:
    said = failing(open_bag, made(tmp_path / "a.h5", write))
    assert what in said
    assert "\x1b" not in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(value: float, tmp_path: Path) -> None:
    x = X.copy()
    x[17, 3] = value
    path = clam(tmp_path / "slide7.h5", x, PLACES)
    said = failing(read_bag, path, code=Exit.NUMBERS)
    assert said.startswith(f"{path}: its features hold NaN or infinity, first in row 17")


# --- nothing is followed out of the file ------------------------------------------------------------------------------


def soft(file: h5py.File) -> None:
    file["inner"] = X
    file["features"] = h5py.SoftLink("/inner")


def external(file: h5py.File) -> None:
    # Whoever followed this would wait for a pipe without end.
    pipe = Path(file.filename).with_name("pipe")
    os.mkfifo(pipe)
    file["features"] = h5py.ExternalLink(str(pipe), "/features")
    file["coords"] = h5py.ExternalLink(str(pipe), "/coords")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((300, 6), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", (300, 6))
    file.create_virtual_dataset("features", layout)


def stored_elsewhere(file: h5py.File) -> None:
    Path(file.filename).with_name("raw").write_bytes(X.tobytes())
    file.create_dataset("features", (300, 6), "f4", external=[("raw", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize("write", [soft, external, virtual, stored_elsewhere])
def test_what_points_elsewhere_is_refused(write: Write, tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", write)
    said = failing(open_bag, path, code=Exit.UNSAFE)
    assert "not followed" in said
    assert "' is a link" in said or "' is stored in other files" in said


def test_places_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        file["features"] = X
        file["coords"] = h5py.SoftLink("/nowhere")

    assert "'coords' is a link" in failing(open_bag, made(tmp_path / "a.h5", write), code=Exit.UNSAFE)


def test_a_filter_that_would_be_loaded_as_a_program_is_refused(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((300, 6))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 0, 0))
        space = h5s.create_simple((300, 6))
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, plan).write(h5s.ALL, h5s.ALL, X)

    said = failing(open_bag, made(tmp_path / "a.h5", write), code=Exit.UNSAFE)
    assert "filter 32001" in said
    assert "h5repack" in said


# --- no claim is believed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (256, 1024)}, {"chunks": (1, 1024)}, {"chunks": (1, 1), "compression": "gzip"}]
)
@pytest.mark.parametrize("rows", [1 << 40, 100_000])
def test_a_huge_claim_without_numbers_costs_nothing(options: dict[str, object], rows: int, tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("features", (rows, 1024), "f4", **options))
    before = time.monotonic()
    said = failing(open_bag, path, code=Exit.UNSAFE)
    assert "claims" in said
    assert time.monotonic() - before < 20


def test_an_array_that_was_never_written(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("features", (300, 6), "f4"))
    assert "never written whole: 1 of its 1 pieces" in failing(open_bag, path)


def test_an_array_that_was_written_in_part(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("features", (300, 6), "f4", chunks=(50, 6))[:150] = X[:150]

    assert "3 of its 6 pieces are missing" in failing(open_bag, made(tmp_path / "a.h5", write))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    zeros = np.zeros((100_000, 100), "f4")
    path = made(
        tmp_path / "a.h5", lambda f: f.create_dataset("features", data=zeros, chunks=(1000, 100), compression=9)
    )
    assert "it may be a bomb" in failing(open_bag, path, code=Exit.UNSAFE)


def test_a_single_chunk_may_not_be_a_bomb_either(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        made = file.create_dataset("features", (3, 6), "f4", maxshape=(None, 6), chunks=(1_000_000, 6), compression=9)
        made[:] = X[:3]

    assert "claims 24,000,000 bytes" in failing(open_bag, made(tmp_path / "a.h5", write), code=Exit.UNSAFE)


def test_what_is_packed_well_but_plausibly_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "FREE_BYTES", 0)
    x = np.repeat(X[:10], 30, axis=0)
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("features", data=x, compression=9))
    np.testing.assert_array_equal(read_bag(path).features, x)


def test_a_last_row_of_zeros_was_cut_off_or_padded(tmp_path: Path) -> None:
    x = X.copy()
    x[250:] = 0
    assert "last row is all zeros" in failing(read_bag, clam(tmp_path / "a.h5", x, PLACES))


# --- attributes -------------------------------------------------------------------------------------------------------


def test_numbers_and_texts(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.update(features=X))
    with h5py.File(path, "r+") as file:
        told = {"whole": 512, "part": np.float32(0.5), "one": [7], "pair": [4.0, 4.5], "none": "None", "small": 0.2}
        told |= {"long": list(range(100)), "nan": np.nan, "bytes": np.bytes_("uni é".encode()), "free": "text"}
        file["features"].attrs.update(told)
        file.attrs["side"] = 256
    with Hdf5(path) as file:
        array = file.array("features", "f", (2,))
        assert [array.number(name) for name in ("whole", "part", "one", "none", "nowhere")] == [512, 0.5, 7, None, None]
        assert [array.whole(name) for name in ("whole", "part", "small", "none")] == [512, None, None, None]
        assert array.pair("pair") == (4.0, 4.5)
        assert array.pair("whole") is None
        assert [array.text(name) for name in ("bytes", "free", "whole")] == ["uni é", "", ""]
        assert [array.has(name) for name in ("none", "nowhere")] == [True, False]
        assert file.number("side") == 256
        assert not file.has("whole")
        for name in ("long", "pair", "nan"):
            assert name in failing(array.number, name)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_cut_off_anywhere_is_one_error(tmp_path: Path) -> None:
    for write in (trident, clam):
        whole = write(tmp_path / "whole.h5", X[:40], PLACES[:40]).read_bytes()
        for length in sorted({*range(1, 200, 9), *range(200, len(whole), len(whole) // 60), len(whole) - 1}):
            (tmp_path / "cut.h5").write_bytes(whole[:length])
            assert str(tmp_path / "cut.h5") in failing(read_bag, tmp_path / "cut.h5")


def test_wiped_parts_are_one_error_or_other_numbers(tmp_path: Path) -> None:
    # TRIDENT's and CLAM's files have no checksums: nothing can tell a wrong number from a right one.
    whole = trident(tmp_path / "whole.h5", X[:40], PLACES[:40]).read_bytes()
    refused = 0
    for start in range(0, len(whole), len(whole) // 60):
        (tmp_path / "cut.h5").write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            read_bag(tmp_path / "cut.h5")
        except HistillError:
            refused += 1
    assert refused > 3


def test_a_heap_in_which_hdf5_reads_on_without_end_is_not_read(tmp_path: Path) -> None:
    # Texts of free length lie in a heap. The length of its third text, pushed too far, lands the library on zeros.
    path = trident(tmp_path / "a.h5", X, PLACES)
    whole = bytearray(path.read_bytes())
    heap = whole.index(b"GCOL")
    at, sizes = heap + 16, []
    while int.from_bytes(whole[at : at + 2], "little"):
        sizes.append(at + 8)
        at += 16 + -(-int.from_bytes(whole[at + 8 : at + 16], "little") // 8) * 8
    assert len(sizes) > 2
    whole[sizes[-1]] = 0x7F
    path.write_bytes(whole)
    assert read_bag(path).tile_side == 512
