"""The one writer: whatever stops it, and wherever, no half file bears a final name."""

import errno
import json
import os
import stat
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core import storage
from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.record import faults, read_record

SCRIPT = Path(__file__).with_name("saboteur.py")
spec = util.spec_from_file_location("saboteur", SCRIPT)
assert spec is not None
assert spec.loader is not None
saboteur = util.module_from_spec(spec)
spec.loader.exec_module(saboteur)
OLD, NEW = saboteur.OLD, saboteur.NEW


def run_python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{storage.TEMPORARY_PREFIX}*"))


def check_finals(folder: Path) -> None:
    """Every file under a final name is whole: the old one or the new one."""
    assert (folder / "result.bin").read_bytes() in (OLD, NEW)
    tree = folder / "tree"
    if tree.exists():
        assert (tree / "a.bin").read_bytes() == NEW
        assert (tree / "deep" / "b.bin").read_bytes() == OLD
    events = [event["event"] for event in read_journal(folder / "journal.jsonl")]
    assert events == ["first"] + ["second"] * (len(events) - 1)
    assert (folder / "journal.jsonl").read_bytes().startswith(b'{"event": "first"}\n')
    record = read_record(folder / "record.json")
    assert (record is not None) == (folder / "record.json").exists()
    assert record is None or not faults(record, folder)


@pytest.mark.parametrize("way", ["full", "killed"])
@pytest.mark.parametrize("deed", sorted(saboteur.DEEDS))
def test_stopped_at_every_operation_leaves_no_half_file(deed: str, way: str, tmp_path: Path) -> None:
    codes = json.loads(run_python(str(SCRIPT), deed, way, str(tmp_path)))
    assert len(codes) > 2, "the saboteur struck nothing"
    expected = Exit.STORAGE if way == "full" else saboteur.KILLED
    assert codes == [expected] * (len(codes) - 1) + [0]
    for place in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        if way == "killed":
            storage.sweep(place)
        assert temporaries(place) == []
        check_finals(place)
        # The same deed done again ends well, whatever was left.
        if not (place / "tree").exists():
            saboteur.DEEDS[deed](place)
        check_finals(place)
        assert is_done(deed, place)


def is_done(deed: str, place: Path) -> bool:
    if deed == "write_journal":
        return read_journal(place / "journal.jsonl")[-1]["event"] == "second"
    if deed == "write_folder":
        return (place / "tree").exists()
    return (place / "result.bin").read_bytes() == NEW


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No test without pulling the plug can see a missing fsync, so the calls themselves are held to their order.
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(f"name {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    storage.write_bytes(tmp_path / "a", b"abc")
    assert done == ["3 bytes", "name a", "folder"]
    done.clear()
    with storage.new_folder(tmp_path / "tree") as folder:
        storage.write_inside(folder, "b", b"abcd")
    assert done == ["4 bytes", "folder", "name tree", "folder"]
    done.clear()
    storage.append_line(tmp_path / "journal", "line")
    assert done == ["5 bytes"]


def test_the_killed_leave_temporaries_that_sweep_removes(tmp_path: Path) -> None:
    json.loads(run_python(str(SCRIPT), "write_file", "killed", str(tmp_path)))
    assert temporaries(tmp_path), "this test is to sweep something"
    (tmp_path / ".histill-folder").mkdir()
    (tmp_path / ".histill-folder" / ".histill-inside").write_bytes(b"")
    storage.sweep(tmp_path)
    assert temporaries(tmp_path) == []


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def write_half_a_file() -> None:
        with storage.open_new(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyError

    def write_half_a_folder() -> None:
        with storage.new_folder(tmp_path / "b") as folder:
            storage.write_inside(folder, "c", b"half")
            raise KeyError

    for write in (write_half_a_file, write_half_a_folder):
        with pytest.raises(KeyError):
            write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(HistillError, match="exists already") as caught, storage.new_folder(tmp_path / "tree"):
        pass
    assert caught.value.code == Exit.STORAGE


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        for write in (storage.write_bytes, lambda path, data: storage.append_line(path, data.decode())):
            with pytest.raises(HistillError, match="a file stands where a folder is needed") as caught:
                write(path, b"data")
            assert caught.value.code == Exit.STORAGE
            assert caught.value.subject == str(path)


def test_a_folder_where_a_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(HistillError, match="a folder stands where a file is needed"):
        storage.write_bytes(tmp_path / "folder", b"data")
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EDQUOT, "quota"), (errno.EIO, "cannot write")],
)
def test_a_folder_that_cannot_be_written(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not stop root, so the system's answer is played here.
    def refuse(path: Path, mode: str = "r", *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    for write in (storage.write_bytes, lambda path, data: storage.append_line(path, data.decode())):
        with pytest.raises(HistillError, match=message) as caught:
            write(tmp_path / "a", b"data")
        assert caught.value.code == Exit.STORAGE
        assert caught.value.mend


def test_a_name_of_full_length_can_be_written(tmp_path: Path) -> None:
    name = "ä" * 127
    storage.write_bytes(tmp_path / name, b"data")
    assert (tmp_path / name).read_bytes() == b"data"
    with pytest.raises(HistillError, match="too long"):
        storage.write_bytes(tmp_path / ("ä" * 128), b"data")


def test_nan_is_refused_and_odd_file_names_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
    odd = {"name": "scan\udcff.svs", "text": "µm"}
    storage.write_json(tmp_path / "a.json", odd)
    assert json.loads((tmp_path / "a.json").read_bytes()) == odd


def test_remove_takes_files_folders_and_nothing(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "folder" / "deep" / "a", b"")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    storage.remove(tmp_path / "link")
    assert (tmp_path / "folder" / "deep" / "a").exists()
    for _ in range(2):
        storage.remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


HOLD = "import sys; from pathlib import Path; from histill.core.storage import lock\n"
HOLD += "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_refused_while_held_and_free_after_the_holder_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HistillError, match="another histill") as caught, storage.lock(folder):
            pass
        assert caught.value.code == Exit.BUSY == 8
        holder.kill()
    with storage.lock(folder), pytest.raises(HistillError), storage.lock(folder):
        pass
    with storage.lock(folder):
        pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    with pytest.raises(HistillError, match="No locks available") as caught, storage.lock(tmp_path):
        pass
    assert caught.value.code == Exit.STORAGE


@given(st.text(min_size=1), st.text(min_size=1))
def test_safe_names_are_safe_and_differ(one: str, other: str) -> None:
    name = storage.safe_name(one)
    assert 0 < len(name.encode()) <= 120
    assert not set(name) & set('/\\:*?"<>|\0\n ')
    assert not name.startswith((".", "-"))
    assert (name == storage.safe_name(other)) == (one == other)
    assert (name.lower() == storage.safe_name(other).lower()) <= (one.lower() == other.lower())


def test_safe_names_keep_what_is_safe_and_never_meet() -> None:
    for identity in ("val_00_x056_y000.png", "TCGA-3C-AALI-01A-01-TSA"):
        assert storage.safe_name(identity) == identity
    for identity in ("a b", "..", "../a", "ä", "a" * 101, "scan\udcff"):
        name = storage.safe_name(identity)
        # An id spelt as another one's safe name gets a different name, even where case is ignored.
        assert storage.safe_name(name).lower() != name.lower()
        assert storage.safe_name(name.lower()).lower() != name.lower()
