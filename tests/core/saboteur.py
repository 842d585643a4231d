"""Does one deed of the one writer again and again, and stops it at its 1st, 2nd, 3rd ... write, fsync or rename.

Run as: python saboteur.py DEED full|killed FOLDER. Each attempt works in FOLDER/1, FOLDER/2, ... in a process of its
own, until one ends untouched; the exit codes are printed as a JSON list.
"""

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from histill.core import storage
from histill.core.errors import HistillError
from histill.core.journal import Journal
from histill.core.record import OK, Record, describe

OLD, NEW = b"old" * 100, bytes(range(256)) * 300
KILLED = 137


def prepare(folder: Path) -> None:
    """What lies in the folder beforehand."""
    folder.mkdir(parents=True)
    (folder / "result.bin").write_bytes(OLD)
    (folder / "journal.jsonl").write_text('{"event": "first"}\n')


def write_file(folder: Path) -> None:
    storage.write_bytes(folder / "result.bin", NEW)


def write_stream(folder: Path) -> None:
    with storage.open_new(folder / "result.bin") as file:
        file.write(b"?" * 10)
        file.write(NEW[10:])
        file.seek(0)
        file.write(NEW[:10])


def write_folder(folder: Path) -> None:
    with storage.new_folder(folder / "tree") as tree:
        storage.write_inside(tree, "a.bin", NEW)
        storage.write_inside(tree, "deep/b.bin", OLD)


def write_journal(folder: Path) -> None:
    Journal(folder / "journal.jsonl").say("second", text="x" * 10_000)


def write_record(folder: Path) -> None:
    storage.write_bytes(folder / "result.bin", NEW)
    Record(OK, "s", "i", describe(folder, ["result.bin"])).write(folder / "record.json")


DEEDS = {deed.__name__: deed for deed in (write_file, write_stream, write_folder, write_journal, write_record)}


class Saboteur:
    """Counts operations and stops the process, or fills the disk, at the n-th."""

    def __init__(self, nth: int, way: str) -> None:
        self.nth, self.way, self.count = nth, way, 0

    def strike(self, *, lasting: bool) -> None:
        """Count an operation; a full disk stays full for writes."""
        self.count += 1
        if self.count == self.nth or (lasting and self.count > self.nth and self.way == "full"):
            if self.way == "killed":
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        """Stand between histill and the system."""
        saboteur, fsync, replace, open_ = self, os.fsync, os.replace, io.open

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                half = memoryview(data)[: len(data) // 2]
                try:
                    saboteur.strike(lasting=True)
                except OSError:
                    super().write(half)
                    raise
                # Half a write is what a kill between two system calls leaves.
                done = super().write(half) if len(half) else 0
                if saboteur.way == "killed":
                    saboteur.strike(lasting=True)
                return done + (super().write(memoryview(data)[done:]) or 0)

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode not in ("x+b", "a+b", "wb"):
                return open_(file, mode, *args, **kwargs)
            return (io.BufferedRandom if "+" in mode else io.BufferedWriter)(Raw(file, mode.replace("b", "")))

        def struck_fsync(descriptor: int) -> None:
            saboteur.strike(lasting=False)
            fsync(descriptor)

        def struck_replace(source: Any, target: Any) -> None:
            saboteur.strike(lasting=False)
            replace(source, target)

        io.open, os.fsync, os.replace = opened, struck_fsync, struck_replace  # type: ignore[assignment]


def attempt(deed: str, way: str, folder: Path, nth: int) -> int:
    """Do the deed in a child process; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Saboteur(nth, way).install()
    try:
        DEEDS[deed](folder)
    except HistillError as error:
        os._exit(int(error.code))
    except BaseException:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    codes: list[int] = []
    while not codes or codes[-1]:
        place = Path(sys.argv[3]) / str(len(codes) + 1)
        prepare(place)
        codes.append(attempt(sys.argv[1], sys.argv[2], place, len(codes) + 1))
    print(json.dumps(codes))
