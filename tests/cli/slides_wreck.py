"""Segments slides once untouched, and then stopped: by a kill or a full disk at operations of the writer, by signals.

Run as: python slides_wreck.py MODEL SLIDES FOLDER STEP DEED... A deed is "killed", "full", or the name of a signal.
Attempt i is struck at its (i * STEP)-th write, fsync, rename, removal or new folder, and goes on with what the last one
left, until one ends untouched; with a STEP of 0 every operation is struck in turn, in a folder of its own in which a
run without any fault follows. Prints JSON: {deed: what came of it}, and what differs from the untouched run.
"""

import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from PIL import Image
from saboteur import Saboteur
from scanned import EVERYWHERE, install
from small import torn, tree

import histill.engine.slides  # noqa: F401 - once, not in every child
from histill.cli.main import main
from histill.core.storage import TEMPORARY_PREFIX
from histill.formats.geojson import read_geojson
from histill.formats.maps import open_labels

PATIENCE = 60.0
"""seconds that anything may take before it counts as hanging"""


class Striker(Saboteur):
    """Also counts what else changes a folder; and kills as a system does."""

    def strike(self, *, lasting: bool) -> None:
        if self.way == "killed" and self.count + 1 == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)
        super().strike(lasting=lasting)

    def install(self) -> None:
        mkdir, unlink, whole = os.mkdir, os.unlink, io.open
        super().install()
        struck: Any = io.open

        def opened(file: Any, *arguments: Any, **more: Any) -> Any:
            # What goes to a reader goes through a pipe, which no disk fills.
            return (whole if isinstance(file, int) else struck)(file, *arguments, **more)

        def struck_mkdir(*arguments: Any, **more: Any) -> None:
            self.strike(lasting=True)
            mkdir(*arguments, **more)

        def struck_unlink(*arguments: Any, **more: Any) -> None:
            # A full disk lets everybody remove what is there.
            if self.way == "killed":
                self.strike(lasting=False)
            unlink(*arguments, **more)

        io.open, os.mkdir, os.unlink = opened, struck_mkdir, struck_unlink


def begin(command: list[str], prepare: Callable[[], object], said: Path) -> int:
    """The command line in a child process; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # In a process group of its own, so that nothing but this is met by a signal.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with said.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        prepare()
        code = main(command)
        # As the interpreter does at its end: threads are waited for.
        threading._shutdown()  # type: ignore[attr-defined]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(child: int) -> int | str:
    """A child's exit code; it is killed if it hangs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def half_files(folder: Path) -> list[str]:
    """Files under final names that are not whole."""
    found = [name for name in torn(folder) if TEMPORARY_PREFIX not in name]
    readers: dict[str, Callable[[Path], object]] = {".tif": read_map, ".geojson": read_geojson, ".jpg": read_picture}
    for path in sorted(folder.rglob("*")):
        if path.suffix in readers and TEMPORARY_PREFIX not in path.name:
            try:
                readers[path.suffix](path)
            except Exception as error:
                found.append(f"{path.name}: {error}")
    return found


def read_map(path: Path) -> None:
    with open_labels(path) as labels:
        for _ in labels.bands():
            pass


def read_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def temporaries(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(f"{TEMPORARY_PREFIX}*")]


def children_of(parent: int) -> list[int]:
    """Running processes that a process started; none where the system does not say."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(path.parent.name))
    return found


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Wreck:
    """All of it.

    Args:
        command: of the run, but for its folder.
        place: where folders are made.
    """

    def __init__(self, command: list[str], place: Path) -> None:
        self.command, self.place = command, place
        code, _ = self.attempt(place / "clean", int)
        assert code == 0, (place / "said").read_text()
        self.clean = tree(place / "clean")

    def attempt(self, folder: Path, prepare: Callable[[], object]) -> tuple[int | str, str]:
        """Exit code, and what was said."""
        said = self.place / "said"
        code = end(begin([*self.command, "--to", str(folder)], prepare, said))
        return code, said.read_text()

    def differs(self, folder: Path) -> list[str]:
        found = tree(folder)
        return sorted(name for name in {*found, *self.clean} if found.get(name) != self.clean.get(name))

    def strike(self, way: str, step: int) -> dict[str, list[Any]]:
        result: dict[str, list[Any]] = {name: [] for name in ("codes", "said", "half", "left", "differs")}
        folder = self.place / way
        while not result["codes"] or result["codes"][-1] in (-signal.SIGKILL, 7):
            nth = (len(result["codes"]) + 1) * (step or 1)
            code, said = self.attempt(folder, Striker(nth, way).install)
            result["codes"].append(code)
            result["half"] += half_files(folder) if folder.exists() else []
            if way == "full":
                result["said"].append(said)
                result["left"] += temporaries(folder) if folder.exists() else []
            if not step:
                again, said = self.attempt(folder, int)
                result["half"] += [] if again == 0 else [f"{nth}: then {again}: {said}"]
                result["left"] += temporaries(folder)
                result["differs"] += [f"{nth}: {name}" for name in self.differs(folder)]
                shutil.rmtree(folder)
        if step:
            result["left"] += temporaries(folder)
            result["differs"] += self.differs(folder)
        return result

    def signalled(self, name: str) -> dict[str, Any]:
        """A signal while a map is half written."""
        folder, said = self.place / name, self.place / f"{name}.said"
        child = begin([*self.command, "--to", str(folder)], lambda: os.environ.update(SECONDS="0.2"), said)
        until = time.monotonic() + PATIENCE
        while not list(folder.glob(f"masks/{TEMPORARY_PREFIX}*")) and time.monotonic() < until:
            time.sleep(0.01)
        readers = children_of(child)
        started = time.monotonic()
        os.kill(child, signal.Signals[name])
        code = end(child)
        seconds = time.monotonic() - started
        left = temporaries(folder)
        # A reader that nobody ended sees that nobody asks any more.
        while any(map(running, readers)) and time.monotonic() < until:
            time.sleep(0.01)
        again, _ = self.attempt(folder, int)
        return {
            "code": code,
            "said": said.read_text(),
            "seconds": seconds,
            "left": left,
            "readers": len(readers),
            "alive": [reader for reader in readers if running(reader)],
            "again": again,
            "left at last": temporaries(folder),
            "differs": self.differs(folder),
        }


if __name__ == "__main__":
    install()
    given, slides, place, step, *deeds = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=place) as made:
        wreck = Wreck(["predict", given, slides, *EVERYWHERE, "--probabilities"], Path(made))
        results = {
            deed: wreck.strike(deed, int(step)) if deed in ("killed", "full") else wreck.signalled(deed)
            for deed in deeds
        }
    print(json.dumps(results))
