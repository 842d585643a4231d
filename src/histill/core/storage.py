"""The one writer: every file of histill reaches its final name whole, or not at all.

Each form writes under a temporary name in the same folder, syncs, and renames; on any error the temporary goes. A
reader therefore never meets half a file, whatever was killed when.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from histill.core.errors import Exit, HistillError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there, and `doctor` says so.
    fcntl = None  # type: ignore[assignment]

TEMPORARY_PREFIX = ".histill-"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once.

    Raises:
        HistillError: storage (7) if the disk is full, the folder read-only, or the name not writable.
    """
    with open_new(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, keys in their given order; NaN is refused by JSON's own rule."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))


@contextlib.contextmanager
def open_new(path: Path) -> Iterator[IO[bytes]]:
    """A seekable binary handle to a temporary file that takes the final name when the block ends well."""
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        # "x" is O_EXCL: two writers can never share a temporary.
        file = temporary.open("x+b")
    try:
        with _storage_errors(path):
            # The handle closes inside: on a full disk closing fails once more, of the bytes still in its buffer.
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, filled by the block, that takes the final name when the block ends well.

    Raises:
        HistillError: storage (7) if the final name exists already, or as `write_bytes`.
    """
    if path.exists():
        raise HistillError("the folder exists already", code=Exit.STORAGE, subject=str(path), mend="Choose a new name")
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.mkdir()
    try:
        with _storage_errors(path):
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _sync(Path(folder) / name)
                _sync_folder(Path(folder))
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_inside(folder: Path, name: str, data: bytes) -> None:
    """Write a file into a folder that `new_folder` is making; it is synced with the folder, not one by one."""
    path = folder / name
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Append one line to a journal and sync it. A line torn by a crash is closed off first; readers ignore it."""
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            # A file name that is not UTF-8 holds lone surrogates; spelt out as \udcXX they are JSON still.
            file.write(line.encode(errors="backslashreplace") + b"\n")
            file.flush()
            os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and its parents; nothing happens if it is there."""
    with _storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing happens if it is gone."""
    with _storage_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind. Only the holder of the folder's `lock` may call this."""
    for path in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        remove(path)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process dies, however it dies.

    Raises:
        HistillError: busy (8) if another process holds it.
    """
    make_folder(folder)
    path = folder / ".lock"
    with _storage_errors(path):
        file = path.open("ab")
    with file:
        try:
            with _storage_errors(path):
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except HistillError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            raise HistillError(
                "another histill works in this folder",
                code=Exit.BUSY,
                subject=str(folder),
                mend="Wait for it to end, or use another folder",
            ) from None
        yield


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(identity: str) -> str:
    """A file name for an id that may hold anything: unsafe characters replaced, and a hash added if any were.

    Two ids share a name only where they differ in case alone, on a file system that ignores case: tables hold no such
    ids.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identity).lstrip(".-")[:100]
    # A name that looks like one of the hashed ones below gets a hash of its own.
    if plain == identity and plain and not re.search("-[0-9a-fA-F]{10}$", plain):
        return plain
    digest = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()
    return f"{plain or 'sample'}-{digest[:10]}"


def _temporary(path: Path) -> Path:
    # Random, as a process number comes again: in a container that is started anew, or on another machine.
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    # Some file systems (network shares, Windows) cannot sync a folder; the rename is then as safe as they make it.
    with contextlib.suppress(PermissionError):
        try:
            _sync(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


_FREE_SPACE = "Free some space and run the same command again: it goes on where it stopped"
_MENDS = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    errno.EDQUOT: ("the quota is used up", _FREE_SPACE),
    errno.EROFS: ("the disk is read-only", "Choose a folder you may write to"),
    errno.EACCES: ("no permission to write here", "Choose a folder you may write to"),
    errno.EPERM: ("no permission to write here", "Choose a folder you may write to"),
    errno.EEXIST: ("a file stands where a folder is needed", "Choose another name"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "Choose another name"),
    errno.EISDIR: ("a folder stands where a file is needed", "Choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one"),
}


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what, mend = _MENDS.get(error.errno or 0, (f"cannot write: {error.strerror or error}", "Check the disk"))
        raise HistillError(what, code=Exit.STORAGE, subject=str(path), mend=mend) from error
