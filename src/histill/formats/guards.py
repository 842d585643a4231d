"""What every reader of other tools' feature files holds to: how large they may be, and one error for all damage."""

from __future__ import annotations

import contextlib
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from histill.core.bags import EXTRACT_AGAIN, bag_error
from histill.core.errors import Exit, HistillError

MOST_BYTES = 8 << 30
"""of one array; a million tiles of 2,048 float32 fit"""

MOST_INFLATED = 100
"""times the bytes that are stored; features packed with gzip have about 1.1"""

FREE_BYTES = 16 << 20
"""An array up to this size may be packed as tightly as it likes."""

COPY_AGAIN = f"Copy the file again, or: {EXTRACT_AGAIN.lower()}"
TOO_LARGE = "Take it out, or cut it into parts"

DAMAGED = (
    *(OSError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError),
)
"""What a damaged file makes the libraries raise."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into the one error.

    Raises:
        HistillError: input (4).
    """
    try:
        yield
    except HistillError:
        raise
    except BlockingIOError as error:
        mend = "Wait until the program that writes it is done"
        raise bag_error(str(path), "it is being written", mend) from error
    except DAMAGED as error:
        what = shown(" ".join(str(error).split())[:160]) or type(error).__name__
        raise bag_error(str(path), f"cannot be read: {what}", COPY_AGAIN) from error
    except MemoryError as error:
        raise bag_error(str(path), f"too large for this machine: {error}", TOO_LARGE) from error


def file_size(path: Path) -> int:
    """Bytes of a plain file that is there and not empty.

    Raises:
        HistillError: input (4) if it is not, or a folder, or something that reading could wait for without end.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise bag_error(str(path), "there is no such file", "Correct the path") from None
    except (OSError, ValueError) as error:
        raise bag_error(str(path), f"cannot be read: {error}", "Correct the path, or check its permissions") from None
    if not stat.S_ISREG(found.st_mode):
        raise bag_error(str(path), "not a plain file", "Give a file")
    if not found.st_size:
        raise bag_error(str(path), "an empty file", COPY_AGAIN)
    return found.st_size


def file_head(path: Path, count: int) -> bytes:
    """The first bytes of a plain file. Raises as `file_size`."""
    file_size(path)
    with reading(path), path.open("rb") as file:
        return file.read(count)


def check_inflated(path: Path, what: str, held: int, stored: int) -> None:
    """Refuse what is far larger in memory than in its file.

    Args:
        path: the file.
        what: the array, for the message.
        held: bytes it takes in memory.
        stored: bytes it takes in the file.

    Raises:
        HistillError: unsafe (5).
    """
    if held > MOST_BYTES:
        fault = f"'{what}' claims {held:,} bytes, more than any array of features"
    elif held > max(FREE_BYTES, MOST_INFLATED * stored):
        fault = f"'{what}' claims {held:,} bytes in {stored:,}: it may be a bomb"
    else:
        return
    raise bag_error(str(path), fault, TOO_LARGE, Exit.UNSAFE)


def shown(name: str) -> str:
    """What a file calls something, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
