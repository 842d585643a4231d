"""A slide read in a child process with limits: a file that crashes its reader, hangs it or asks for 4 GB harms nothing.

Whole requests go to the child and pixels come back. A child that dies is replaced; a request that kills two is an
error, and the others go on.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histill.core.errors import HistillError
from histill.core.geometry import Region
from histill.slides.base import RgbImage, Slide
from histill.slides.identity import changed
from histill.slides.limits import LIMITS, Limits
from histill.slides.reader import OPENING, Opener, Opening, Reader, ReaderError

TRIES = 2
IN_FLIGHT, PIXELS_IN_FLIGHT = 4, 1 << 22
"""Answers that are asked for ahead: as many small ones as a network takes at once, or a few large ones."""

MOST_A_REQUEST = 1 << 28
"""Pixels of a level: what takes more to read, as a slide's thumbnail without a pyramid, is asked for in parts."""


def open_guarded(
    path: Path, mpp: float | None = None, *, limits: Limits = LIMITS, opener: Opener | None = None
) -> GuardedSlide:
    """Open a slide in a child process.

    Args:
        path: the file.
        mpp: um per level-0 px, where the user gives it.
        limits: what the child may use.
        opener: what opens the file in the child, a function of a module; `slides.open.open_slide` if none is given.

    Raises:
        HistillError: input (4) if opening the file kills its reader twice; temporary (75) if no reader can be
            started; and what the opener raises.
    """
    return GuardedSlide(Opening(path, mpp, limits, opener))


@dataclass(eq=False)
class _Request:
    """What is asked, how many readers have died of it, and what came of it."""

    name: str
    arguments: tuple[object, ...]
    deaths: int = 0
    answer: Any = None


class GuardedSlide(Slide):
    """A slide whose file is opened and read in a child process; see `open_guarded`.

    Threads may share it: one waits for the other. A process that is forked off gets a reader of its own.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._lock = threading.RLock()
        self._tickets = itertools.count(OPENING + 1)
        # By ticket, in the order asked, which is that of the answers.
        self._requests: dict[int, _Request] = {}
        self._closed = False
        self._reader: Reader | None = self._start()
        super().__init__(opening.path, self._reader.facts)

    def read_as(self, region: Region, width: int, height: int) -> RgbImage:
        """Pixels of a region, made width x height px large, uint8 [height, width, 3]; white beyond the slide.

        Raises:
            HistillError: input (4) if the pixels cannot be read, or reading them kills two readers in turn. Other
                regions can be read all the same.
        """
        down = min(region.w / width, region.h / height)
        # As the base chooses a level, and halves what is too large: so the pixels are the same.
        level = max((each.downsample for each in self.facts.levels if each.downsample <= down * 1.01), default=1.0)
        if region.w * region.h / level**2 > MOST_A_REQUEST and max(width, height) > 1:
            return self._in_halves(region, width, height)
        return self._ask("read_as", region, width, height)

    def read_many(self, requests: Iterable[tuple[Region, int, int]]) -> Iterator[RgbImage | HistillError]:
        """What `read_as` gives for each, in order; the next few are read while the caller works on one.

        A HistillError among the answers says why that one request failed; the others go on. No more than `IN_FLIGHT`
        answers are held at a time, or `PIXELS_IN_FLIGHT` if that is more. Each request is one, however large.

        Args:
            requests: region, width and height of each; taken as they are needed.

        Raises:
            HistillError: what concerns the slide as a whole: it does not open any more, or it has changed.
        """
        tickets: deque[int] = deque()
        try:
            for region, width, height in requests:
                tickets.append(self._send("read_as", region, width, height))
                if len(tickets) >= max(IN_FLIGHT, PIXELS_IN_FLIGHT // (width * height)):
                    yield self._outcome(tickets.popleft())
            while tickets:
                yield self._outcome(tickets.popleft())
        finally:
            for ticket in tickets:
                self._requests.pop(ticket, None)

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        return self._ask("_read_level", level, x, y, w, h)

    def _close(self) -> None:
        # Without the lock: whoever waits for an answer holds it, and is woken by the reader's end.
        self._closed = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()

    def _ask(self, name: str, *arguments: object) -> RgbImage:
        outcome = self._outcome(self._send(name, *arguments))
        if isinstance(outcome, HistillError):
            raise outcome
        return outcome

    def _send(self, name: str, *arguments: object) -> int:
        with self._lock:
            ticket = next(self._tickets)
            self._requests[ticket] = _Request(name, arguments)
            # Without a reader the request waits for `_revive`.
            if (reader := self._living()) is not None:
                reader.send((ticket, name, arguments))
            return ticket

    def _outcome(self, ticket: int) -> RgbImage | HistillError:
        with self._lock:
            request = self._requests[ticket]
            try:
                while request.answer is None:
                    self._advance()
            finally:
                # Also when interrupted: an answer that comes later finds no request and is dropped.
                del self._requests[ticket]
        outcome: RgbImage | HistillError = request.answer
        return outcome

    def _advance(self) -> None:
        """Take the next answer, whosever it is; or see that the reader has died of the oldest request without one."""
        reader = self._living() or self._revive()
        try:
            ticket, answer = reader.receive(self._opening.limits.wall)
        except ReaderError as death:
            self._reader = None
            _, oldest = self._open_requests()[0]
            oldest.deaths += 1
            if oldest.deaths == TRIES:
                oldest.answer = death.error(self.path)
            return
        if ticket in self._requests:
            self._requests[ticket].answer = answer

    def _open_requests(self) -> list[tuple[int, _Request]]:
        return [(ticket, request) for ticket, request in list(self._requests.items()) if request.answer is None]

    def _living(self) -> Reader | None:
        # A forked process has its parent's pipes: each would take answers that the other waits for.
        return self._reader if self._reader is not None and self._reader.owner == os.getpid() else None

    def _revive(self) -> Reader:
        reader = self._start()
        if reader.facts != self.facts:
            reader.stop()
            raise changed(self.path)
        for ticket, request in self._open_requests():
            reader.send((ticket, request.name, request.arguments))
        self._reader = reader
        return reader

    def _start(self) -> Reader:
        deaths = 0
        while True:
            if self._closed:
                raise ValueError(f"{self._opening.path} is closed")
            try:
                return Reader(self._opening)
            except ReaderError as death:
                deaths += 1
                if deaths == TRIES:
                    raise death.error(self._opening.path) from None
