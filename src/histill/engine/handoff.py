"""Work handed from one thread to another, a few items at a time: writing beside the network."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")


class _Stopped(BaseException):
    """Raised where the consumer waits for the next item, when the producer has failed: what it was writing goes."""


class Handoff(Generic[Item]):
    """A thread that consumes what this one puts, without a team of threads of its own.

    Use it in a with statement. The end of the block waits for the consumer; if the block fails, the consumer is made to
    fail too; if the consumer fails, the next `put` or the end of the block raises its error.

    Args:
        consume: gets an iterator over what is put, in the other thread.
        most: items that wait at a time; `put` blocks when there are more.
    """

    def __init__(self, consume: Callable[[Iterator[Item]], None], most: int = 4) -> None:
        self._consume = consume
        self._queue: queue.Queue[tuple[str, Item | None]] = queue.Queue(most)
        self._done: Future[None] | None = None
        self._ended = False

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="histill-writer", initializer=_without_a_team)
        return self

    def put(self, item: Item) -> None:
        """Hand an item over."""
        self._send("item", item)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._send("end", None).result()
                if not self._ended:
                    raise _early()
        finally:
            # Also when this thread was interrupted while it waited: a consumer that nobody stops waits for ever.
            self._stop()
            self._pool.shutdown(wait=True)

    def _stop(self) -> None:
        """Whatever still waits is not wanted any more; to a consumer that has ended this is nothing."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(("stop", None))

    def _send(self, what: str, item: Item | None) -> Future[None]:
        # The consumer starts here, in the block: interrupted in `__enter__`, it would have nobody to end it.
        self._done = self._done or self._pool.submit(self._consume, self._items())
        while True:
            if self._done.done():
                self._done.result()
                raise _early()
            try:
                self._queue.put((what, item), timeout=0.1)
                return self._done
            except queue.Full:
                continue

    def _items(self) -> Iterator[Item]:
        while True:
            what, item = self._queue.get()
            if what == "end":
                self._ended = True
                return
            if what == "stop":
                raise _Stopped
            yield item  # type: ignore[misc]


def _without_a_team() -> None:
    # OpenMP counts threads for each thread that asks, so the network's team keeps its own. A second team would make it
    # wait at the end of every operation.
    threadpool_limits(1, user_api="openmp")


def _early() -> RuntimeError:
    return RuntimeError("the consumer ended before its items did")
