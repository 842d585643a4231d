"""Fingerprints change with what a slide holds and with nothing else; snapshots see that a file was touched."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.slides import identity
from histill.slides.identity import fingerprint_slide, snapshot, still


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts of a large file, on a scale of bytes."""
    for name, value in {"WHOLE": 1000, "END": 100, "BLOCK": 10, "BLOCKS": 5}.items():
        monkeypatch.setattr(identity, name, value)


def of_bytes(folder: Path, content: bytes) -> str:
    path = folder / "slide.svs"
    path.write_bytes(content)
    return fingerprint_slide(path)


# --- fingerprints ---------------------------------------------------------------------------------------------------


@given(content=st.binary(min_size=1, max_size=300), data=st.data())
def test_any_byte_of_a_small_file_counts(
    content: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any", numbered=True)
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    prints = [of_bytes(folder, each) for each in (content, bytes(flipped), content + b"\0", content[:-1])]
    assert len(set(prints)) == 4
    assert of_bytes(folder, content) == prints[0]


def test_every_byte_of_several_reads_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "END", 7)
    content = bytes(range(40))
    flips = (content[:place] + b"\xff" + content[place + 1 :] for place in range(40))
    assert len({of_bytes(tmp_path, each) for each in (content, *flips)}) == 41


def test_name_place_and_times_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"pixels")
    before = fingerprint_slide(path)
    os.utime(path, ns=(1, 1))
    assert fingerprint_slide(path) == before
    (tmp_path / "-elsewhere ä").mkdir()
    assert fingerprint_slide(path.rename(tmp_path / "-elsewhere ä" / "b.tif")) == before
    assert len(before) == 64


@pytest.mark.usefixtures("small_steps")
def test_of_a_large_file_ends_blocks_and_size_count(tmp_path: Path) -> None:
    size = 2000
    content = bytes(size)
    before = of_bytes(tmp_path, content)
    counted = [range(100), *(range(place, place + 10) for place in (100, 547, 995, 1442, 1890)), range(1900, 2000)]
    edges = {place for stretch in counted for place in (stretch[0] - 1, stretch[0], stretch[-1], stretch[-1] + 1)}
    for place in edges & set(range(size)):
        same = of_bytes(tmp_path, content[:place] + b"\1" + content[place + 1 :]) == before
        assert same != any(place in stretch for stretch in counted)
    assert of_bytes(tmp_path, content + b"\0") != before


def test_a_sparse_giant_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "giant.tif"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    before = fingerprint_slide(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert fingerprint_slide(path) != before


# --- slides in many files -------------------------------------------------------------------------------------------


def mirax(folder: Path, name: str = "one") -> Path:
    path = folder / f"{name}.mrxs"
    path.write_bytes(b"preview")
    pixels = folder / name
    pixels.mkdir()
    for file, content in {"Slidedat.ini": b"[GENERAL]", "Index.dat": b"index", "Data0000.dat": b"pixels"}.items():
        (pixels / file).write_bytes(content)
    return path


def test_mirax_is_its_folder_too(tmp_path: Path) -> None:
    path = mirax(tmp_path)
    prints = [fingerprint_slide(path)]
    for name, content in {
        "Slidedat.ini": b"[GENERAl]",
        "Index.dat": b"Index",
        "Data0000.dat": b"pixels more",
        "Data0001.dat": b"",
    }.items():
        (tmp_path / "one" / name).write_bytes(content)
        prints.append(fingerprint_slide(path))
    (tmp_path / "one" / "Data0001.dat").rename(tmp_path / "one" / "Data0002.dat")
    prints.append(fingerprint_slide(path))
    assert len(set(prints)) == len(prints)
    # Pixels count by their size: what is stated.
    (tmp_path / "one" / "Data0000.dat").write_bytes(b"PIXELS MORE")
    assert fingerprint_slide(path) == prints[-1]


def test_mirax_under_another_name_is_the_same(tmp_path: Path) -> None:
    assert fingerprint_slide(mirax(tmp_path, "one")) == fingerprint_slide(mirax(tmp_path, "two"))
    before = fingerprint_slide(tmp_path / "one.mrxs")
    shutil.rmtree(tmp_path / "one")
    assert fingerprint_slide(tmp_path / "one.mrxs") != before


def dicom(path: Path, series: bytes, pixels: bytes = b"pixels") -> Path:
    """As much of a DICOM file as says its series, after a reference to another one."""

    def element(tag: bytes, value: bytes) -> bytes:
        return tag + b"UI" + len(value).to_bytes(2, "little") + value

    referred = element(b"\x20\0\x0e\0", b"9.9.9\0")
    study = element(b"\x20\0\x0d\0", b"1.2\0")
    path.write_bytes(bytes(128) + b"DICM" + referred + study + element(b"\x20\0\x0e\0", series) + pixels)
    return path


def test_dicom_is_its_series(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", b"1.2.3\0")
    prints = [fingerprint_slide(path)]
    dicom(tmp_path / "b.dcm", b"1.2.3\0", b"another level")
    prints.append(fingerprint_slide(path))
    dicom(tmp_path / "b.dcm", b"1.2.3\0", b"another Level")
    prints.append(fingerprint_slide(path))
    assert len(set(prints)) == 3
    # Others of another series, or of none, are other slides; names and which file stands for the slide do not count.
    dicom(tmp_path / "c.dcm", b"1.2.4\0")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.dcm").rename(tmp_path / "0")
    assert {fingerprint_slide(tmp_path / name) for name in ("a.dcm", "0")} == {prints[-1]}


def test_real_dicom_levels_are_one_slide(data_root: Path) -> None:
    prints = [
        fingerprint_slide(data_root / "slides" / f"dicom_{name}.dcm") for name in ("boxes_0", "boxes_1", "sm_image")
    ]
    assert prints[0] == prints[1] != prints[2]


# --- snapshots ------------------------------------------------------------------------------------------------------


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    path.write_bytes(b"other!")
    os.utime(path, ns=(5, 5))


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other!")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [grow, rewrite, replace, Path.unlink])
def test_a_snapshot_sees_a_change(change: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a slide.svs"
    path.write_bytes(b"pixels")
    before = snapshot(path)
    still(path, before)
    path.read_bytes()
    still(path, before)
    change(path)
    with pytest.raises(HistillError, match="changed while it was read") as caught:
        still(path, before)
    assert (caught.value.code, caught.value.subject) == (Exit.INPUT, str(path))
    assert "copied whole" in caught.value.mend


def test_a_snapshot_is_of_all_files(tmp_path: Path) -> None:
    path = mirax(tmp_path)
    before = snapshot(path)
    still(path, before)
    grow(tmp_path / "one" / "Data0000.dat")
    with pytest.raises(HistillError, match="changed"):
        still(path, before)
    path = dicom(tmp_path / "a.dcm", b"1.2.3\0")
    before = snapshot(path)
    dicom(tmp_path / "b.dcm", b"1.2.4\0")
    still(path, before)
    dicom(tmp_path / "c.dcm", b"1.2.3\0")
    with pytest.raises(HistillError, match="changed"):
        still(path, before)


# --- what is no slide -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [fingerprint_slide, snapshot])
def test_what_cannot_be_read_is_an_error(look: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for name, says in {
        "missing.svs": "there is no such file",
        "file/below.svs": "there is no such file",
        ".": "this is not a file",
        "pipe": "this is not a file",
        "null\0": "cannot be read: embedded null",
        "long" * 100: "cannot be read: File name too long",
    }.items():
        with pytest.raises(HistillError, match=says) as caught:
            look(tmp_path / name)
        assert caught.value.code == Exit.INPUT
        assert caught.value.mend


def test_a_file_that_fails_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"pixels")

    def fail(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(identity, "_digest", fail)
    with pytest.raises(HistillError, match="cannot be read: Input/output error"):
        fingerprint_slide(path)
