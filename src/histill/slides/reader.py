"""A reader: a child process that has one slide open, seen from the parent (`Reader`) and from inside (`serve`).

It is a fresh interpreter that imports what reading needs and no more. Pickled messages go both ways: first what to
open, then calls of the slide's methods, each with a ticket that its answer carries too.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2

from histill.core.errors import Exit, HistillError
from histill.slides.base import Slide, SlideFacts
from histill.slides.limits import Limits, limit_memory, limit_processor

Opener = Callable[[Path, float | None], Slide]
Call = tuple[int, str, tuple[object, ...]]
"""Ticket, name of the method, arguments."""
Answers = queue.SimpleQueue[tuple[int, Any] | None]
Given = TypeVar("Given")

START_SECONDS = 120.0
"""How long an interpreter may take to start: on a cluster its libraries come over the network."""
GRACE_SECONDS = 5.0
"""How long the end of a killed process is waited for."""
OPENING = 0
"""The ticket of what a child says before it is asked: first that it is there, then the slide's facts."""
DAMAGED = "Compare its size or checksum with the original's and copy it anew, or leave it out"
SLOW = "Move it to a disk that answers faster, or leave it out"


@dataclass(frozen=True)
class Opening:
    """What a reader is told first: the file, its um per level-0 px from the user, what it may use, what opens it."""

    path: Path
    mpp: float | None
    limits: Limits
    opener: Opener | None


class ReaderError(Exception):
    """The death of a reader: how it came about, what it wrote to standard error, and how to mend it."""

    def __init__(self, how: str, said: list[str], mend: str) -> None:
        super().__init__(how)
        self.how, self.said, self.mend = how, said, mend

    def error(self, path: Path) -> HistillError:
        """The same as an error of the file, to be raised when it has happened twice."""
        error = HistillError(f"twice its reader {self.how}", code=Exit.INPUT, subject=str(path), mend=self.mend)
        # Seen below a traceback only.
        error.add_note("\n".join(["what the reader said:", *self.said]))
        return error


class Reader:
    """A child process with a slide open. It ends with this object, with this process, and when its input closes.

    Attributes:
        facts: of the slide.
        owner: the process that may use it.
        stop: ends the child.

    Raises:
        ReaderError: if opening the file ends the child.
        HistillError: what the opener raises; temporary (75) if the child does not start.
    """

    def __init__(self, opening: Opening) -> None:
        self.owner = os.getpid()
        self._limits = opening.limits
        # Reading computes with one thread; a hundred cores would cost a hundred stacks.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        try:
            # Not multiprocessing: it would run the user's script again, or fork a process that has threads.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from histill.slides.reader import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                # Ctrl-C in a terminal is for this process, which then ends the child.
                process_group=0,
            )
        except OSError as error:
            raise _no_start(opening.path, str(error)) from error
        self.stop = weakref.finalize(self, _end, self._process, self.owner)
        self._answers: Answers = queue.SimpleQueue()
        self._said: deque[str] = deque(maxlen=20)
        threading.Thread(target=_collect, args=(self._process.stdout, self._answers), daemon=True).start()
        self._keeper = threading.Thread(target=_keep, args=(self._process.stderr, self._said), daemon=True)
        self._keeper.start()
        try:
            self.facts = self._open(opening)
        except BaseException:
            self.stop()
            raise

    def send(self, message: Call | Opening) -> None:
        """Tell the child something; if it is dead, the next `receive` finds out."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()

    def receive(self, seconds: float) -> tuple[int, Any]:
        """Ticket and answer that come next, after so many seconds at most.

        Raises:
            ReaderError: if the child has died, or gives no answer in time: then it is ended.
        """
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise self._bury(late=f"took longer than {seconds:g} s") from None
        if answer is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
            raise self._bury()
        return answer

    def _open(self, opening: Opening) -> SlideFacts:
        self.send(opening)
        try:
            self.receive(START_SECONDS)
        except ReaderError as death:
            raise _no_start(opening.path, f"it {death.how}") from None
        _, answer = self.receive(opening.limits.wall)
        if isinstance(answer, HistillError):
            raise answer
        facts: SlideFacts = answer
        return facts

    def _bury(self, late: str = "") -> ReaderError:
        self.stop()
        self._keeper.join(GRACE_SECONDS)
        said = list(self._said)
        return ReaderError(late, said, SLOW) if late else ReaderError(self._cause(said), said, DAMAGED)

    def _cause(self, said: list[str]) -> str:
        code = self._process.returncode
        last = next((f"; its last words: {line[:200]}" for line in reversed(said) if line), "")
        if code is None or code >= 0:
            return f"ended by itself (exit code {code}){last}"
        if code == -signal.SIGXCPU:
            return f"used more than {self._limits.cpu:g} s of processor time"
        if code == -signal.SIGKILL:
            return "was killed (signal 9), as a system does that runs out of memory"
        # What GLib and C++ say before they abort for want of memory.
        if re.search(r"failed to (re)?allocate|bad_alloc|out of memory", "\n".join(said), re.IGNORECASE):
            return f"was killed: it asked for more than {self._limits.memory_text} of memory"
        return f"crashed (signal {-code}){last}"


def _no_start(path: Path, why: str) -> HistillError:
    return HistillError(
        f"its reader did not start: {why}",
        code=Exit.TEMPORARY,
        subject=str(path),
        mend="Run it again; `histill doctor` says what this machine lacks",
    )


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    # A process that was forked off has a copy of the object, but the child is not its own.
    if os.getpid() == owner:
        process.kill()
        # One that hangs in a network drive dies when the drive answers: that is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()


def _collect(stream: BinaryIO, answers: Answers) -> None:
    """Take answers as they come, so that the child goes on with the next; None when it has ended."""
    try:
        with stream:
            while True:
                answers.put(pickle.load(stream))
    except Exception:  # The end of the stream, or half an answer, which may raise anything.
        answers.put(None)


def _keep(stream: BinaryIO, said: deque[str]) -> None:
    with stream:
        for line in iter(lambda: stream.readline(4096), b""):
            said.append(" ".join(line.decode(errors="replace").split()))


# --- in the child ---------------------------------------------------------------------------------------------------


def serve() -> None:
    """A child's whole life: open the slide it is told to, and answer until its input closes."""
    # A pipe of its own for the answers: what a library prints must not get between them.
    answers = io.BufferedWriter(io.FileIO(os.dup(1), "wb"))
    os.dup2(2, 1)
    # Standard input itself is locked by the interpreter when it ends.
    questions = io.BufferedReader(io.FileIO(os.dup(0)))
    try:
        _serve(questions, answers)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    opening: Opening = pickle.load(questions)
    opener = opening.opener or _default_opener()
    cv2.setNumThreads(1)
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions, calls), daemon=True).start()
    _tell(answers, OPENING, None)
    limit_memory(opening.limits)
    slide, _ = _attempt(opening, opener, opening.path, opening.mpp)
    if isinstance(slide, HistillError):
        _tell(answers, OPENING, slide)
        return
    facts = slide.facts
    _tell(answers, OPENING, facts)
    while True:
        ticket, name, arguments = calls.get()
        answer, expected = _attempt(opening, getattr(slide, name), *arguments)
        _tell(answers, ticket, answer)
        if not expected:
            # Nobody knows what state the slide was left in.
            slide.close()
            slide = opener(opening.path, opening.mpp)
            if slide.facts != facts:
                return


def _attempt(opening: Opening, deed: Callable[..., Given], *arguments: object) -> tuple[Given | HistillError, bool]:
    """What the deed gives, or its error as one that can go to the parent; and whether it ended as it may."""
    limit_processor(opening.limits)
    try:
        return deed(*arguments), True
    except HistillError as error:
        return error, True
    except Exception as error:
        what = f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        # The second is OpenCV's.
        if isinstance(error, MemoryError) or "Insufficient memory" in str(error):
            what = f"reading it asked for more than {opening.limits.memory_text} of memory"
        return HistillError(what, code=Exit.INPUT, subject=str(opening.path), mend=DAMAGED), False


def _default_opener() -> Opener:
    # Here, so that the parent does not load what only its children need.
    from histill.slides.open import open_slide

    return open_slide


def _listen(questions: BinaryIO, calls: queue.SimpleQueue[Call]) -> None:
    """Take calls as they come. When the pipe ends the parent is gone, however it went, and so must this process be."""
    # Not by Linux's parent death signal, which comes when the thread ends that started this process.
    try:
        while True:
            calls.put(pickle.load(questions))
    finally:
        os._exit(0)


def _tell(answers: BinaryIO, ticket: int, answer: object) -> None:
    pickle.dump((ticket, answer), answers, pickle.HIGHEST_PROTOCOL)
    answers.flush()
