"""Slides whose files say how their reader misbehaves: opened by the tests, and by the readers that they start.

A file is JSON: a deed by the column, 100 px wide, in which a region begins; "open" is done when the slide is opened.
"""

import ctypes
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from histill.core.errors import Exit, HistillError
from histill.slides.base import Level, RgbImage, Slide, SlideFacts, Spacing

SIDE = 2000


def open_unruly(path: Path, mpp: float | None = None) -> Slide:
    return Unruly(path, mpp)


class Unruly(Slide):
    def __init__(self, path: Path, mpp: float | None) -> None:
        self.deeds: dict[str, str] = json.loads(path.read_text())
        self.broken = False
        levels = (Level(SIDE, SIDE, 1.0), Level(SIDE // 4, SIDE // 4, 4.0))
        self.path = path
        self.do(self.deeds.get("open", ""))
        facts = {
            "torch": str("torch" in sys.modules),
            "main": str(getattr(sys.modules["__main__"], "__file__", None)),
            **({"changing": self.deeds["facts"]} if "facts" in self.deeds else {}),
        }
        super().__init__(path, SlideFacts("unruly", levels, Spacing(mpp, "user") if mpp else None, facts, ("odd",)))

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        if self.broken:
            raise RuntimeError("broken since an earlier error")
        down = int(self.facts.levels[level].downsample)
        self.do(self.deeds.get(str(x * down // 100), ""))
        columns, rows = np.meshgrid(np.arange(x, x + w), np.arange(y, y + h))
        return np.stack([columns % 251, rows % 241, (columns * rows + level) % 239], 2).astype(np.uint8)  # [h, w, 3]

    def _close(self) -> None:
        pass

    def do(self, deed: str) -> None:
        if deed == "die":
            with self.path.with_name("deaths").open("a") as deaths:
                deaths.write("one more\n")
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed.startswith("die once"):
            # The file that says that it has been done stands beside the slide.
            done = self.path.with_name(deed)
            if not done.exists():
                done.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "crash":
            ctypes.string_at(0)
        elif deed == "abort":
            os.write(2, b"GLib-ERROR: failed to allocate 4294836224 bytes\n")
            os.abort()
        elif deed == "hog":
            self.deeds["hoard"] = "x" * (1 << 34)
        elif deed == "sleep":
            time.sleep(600)
        elif deed == "nap":
            time.sleep(0.3)
        elif deed == "spin":
            sum(itertools.repeat(0))  # never lets go of the interpreter's lock
        elif deed == "refuse":
            raise HistillError("a bomb", code=Exit.UNSAFE, subject="tile 7", mend="Leave it")
        elif deed == "break":
            self.broken = True
            raise RuntimeError("tile 7\nis torn")
        elif deed == "chatter":
            os.write(1, b"a library's warning\n" * 10_000)
            os.write(2, b"another's\n" * 10_000)
        elif deed == "leave":
            os.write(2, b"first\nthe \xff last\n\n")
            os._exit(3)
        elif deed == "change":
            self.path.write_text(json.dumps({"facts": "new"}))
            os._exit(3)
