"""The one error of the house: what went wrong, where, and how to mend it."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line; documented in docs/exit-codes.md."""

    DONE = 0
    BUG = 1
    USAGE = 2
    """usage, settings or a table"""
    QUARANTINED = 3
    """done, but some inputs were put aside"""
    INPUT = 4
    """an input is missing or unreadable as a whole"""
    UNSAFE = 5
    """refused because reading it could harm: a pickle, a decompression bomb"""
    NUMBERS = 6
    """a loss or a weight is not finite"""
    STORAGE = 7
    """full disk, read-only folder, torn file"""
    BUSY = 8
    """another instance works in this folder"""
    TEMPORARY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class HistillError(Exception):
    """An error a user can act on.

    Args:
        what: what went wrong, one plain sentence without a full stop.
        code: the exit code that the command line ends with.
        subject: where: a file, a line, a setting, a slide.
        mend: how to mend it, an instruction.
    """

    def __init__(self, what: str, *, code: Exit, subject: str = "", mend: str = "") -> None:
        self.what, self.code, self.subject, self.mend = what, code, subject, mend
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.subject}: " if self.subject else ""
        # A list of faults ends its own line.
        stop = "" if self.what.endswith("\n") else ". "
        mend = f"{stop}{self.mend}" if self.mend else ""
        return f"{where}{self.what}{mend}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return _rebuild, (self.what, self.code, self.subject, self.mend)


def _rebuild(what: str, code: Exit, subject: str, mend: str) -> HistillError:
    return HistillError(what, code=code, subject=subject, mend=mend)
