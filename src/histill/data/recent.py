"""What was read of files, kept in memory up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Files' contents in memory, those used longest ago going first. For one process.

    Args:
        read: a file's path -> what is in it, which nobody is to change.
        size: how many bytes that takes.
        limit: most bytes kept; what alone takes more is not kept.
    """

    def __init__(self, read: Callable[[Path], T], size: Callable[[T], int], limit: int) -> None:
        self.limit = limit
        self._read, self._size = read, size
        self._kept: OrderedDict[Path, T] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[object, ...]:
        # A worker process starts with nothing kept instead of a copy of its parent's.
        return type(self), (self._read, self._size, self.limit)

    def get(self, path: Path) -> T:
        """What is in a file. Raises as `read`."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        content = self._read(path)
        if self._size(content) <= self.limit:
            self._kept[path] = content
            self._bytes += self._size(content)
            while self._bytes > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= self._size(oldest)
        return content
