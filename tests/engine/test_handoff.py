"""Work handed to another thread: in order, a few at a time, and an end for both whatever ends one of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from histill.core.storage import open_new
from histill.engine.handoff import Handoff

# Whatever hangs here hangs for ever.
pytestmark = pytest.mark.timeout(30)


class BrokenError(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def writes(path: Path, each: Callable[[int], object] = lambda item: None) -> Callable[[Iterator[int]], None]:
    """A consumer that writes what it gets into one file."""

    def consume(items: Iterator[int]) -> None:
        with open_new(path) as file:
            for item in items:
                file.write(b"%d " % item)
                each(item)

    return consume


def feed(consume: Callable[[Iterator[int]], None], count: int, most: int, then: Callable[[], object] = int) -> None:
    """Hand so many items over, and then do something."""
    with Handoff(consume, most) as handoff:
        for item in range(count):
            handoff.put(item)
        then()


def nothing_is_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("most", [1, 4, 100])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_items_come_in_order_and_all_are_done_at_the_end(most: int, count: int, tmp_path: Path) -> None:
    with Handoff(writes(tmp_path / "a"), most) as handoff:
        for item in range(count):
            handoff.put(item)
    assert (tmp_path / "a").read_bytes() == b"".join(b"%d " % item for item in range(count))


def test_none_is_an_item_like_others() -> None:
    found: list[object] = []
    with Handoff[object](found.extend) as handoff:
        for item in (None, "end", "stop"):
            handoff.put(item)
    assert found == [None, "end", "stop"]


def test_the_producer_waits_for_a_slow_consumer() -> None:
    ahead = taken = put = 0

    def slowly(items: Iterator[int]) -> None:
        nonlocal ahead, taken
        for _ in items:
            # What is put beyond this one waits in the queue, but for the one that `put` holds.
            ahead = max(ahead, put - taken)
            taken += 1
            time.sleep(0.005)

    with Handoff(slowly, most=3) as handoff:
        for item in range(30):
            handoff.put(item)
            put += 1
    assert taken == 30
    assert ahead <= 3 + 1


def test_the_consumers_error_reaches_the_producer_and_its_file_goes(tmp_path: Path) -> None:
    def fails(item: int) -> None:
        if item == 3:
            raise BrokenError("the disk is full")

    with pytest.raises(BrokenError, match="the disk is full"):
        feed(writes(tmp_path / "a", fails), 1000, 2, then=pytest.fail)
    assert nothing_is_left(tmp_path)


def test_the_consumers_error_at_the_last_item_is_not_lost(tmp_path: Path) -> None:
    def fails(item: int) -> None:
        time.sleep(0.05)
        raise BrokenError

    with pytest.raises(BrokenError):
        feed(writes(tmp_path / "a", fails), 1, 4)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("error", [BrokenError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_the_producers_error_stops_the_consumer_and_its_file_goes(
    error: type[BaseException], waiting: int, tmp_path: Path
) -> None:
    gate = threading.Event()

    def open_and_fail() -> None:
        gate.set()
        raise error

    with pytest.raises(error):
        feed(writes(tmp_path / "a", lambda item: gate.wait()), 1 + waiting, 4, then=open_and_fail)
    assert nothing_is_left(tmp_path)


def test_the_producers_error_while_the_consumer_fails_too(tmp_path: Path) -> None:
    def fails(item: int) -> None:
        raise OSError

    def wait_and_fail() -> None:
        time.sleep(0.05)
        raise BrokenError

    with pytest.raises(BrokenError):
        feed(writes(tmp_path / "a", fails), 1, 1, then=wait_and_fail)
    assert nothing_is_left(tmp_path)


def after(seconds: float, deed: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, deed)
    timer.start()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("items", [2, 3, 9], ids=["waits for the end", "hands the end over", "hands an item over"])
def test_an_interrupt_wherever_the_producer_waits(items: int, tmp_path: Path) -> None:
    """The consumer sits on its first item; one waits in the queue, a third finds it full."""
    gate = threading.Event()
    after(0.2, interrupt)
    after(0.4, gate.set)
    seen: list[int] = []

    def sit(item: int) -> None:
        seen.append(item)
        gate.wait()

    with pytest.raises(KeyboardInterrupt):
        feed(writes(tmp_path / "a", sit), items, 2)
    assert seen == [0]
    assert nothing_is_left(tmp_path)
    # Timers are threads too.
    time.sleep(0.05)


def test_an_interrupt_just_when_the_consumer_starts(tmp_path: Path) -> None:
    def consume(items: Iterator[int]) -> None:
        interrupt()
        writes(tmp_path / "a")(items)

    before = threading.active_count()
    for _ in range(30):
        with pytest.raises(KeyboardInterrupt):
            feed(consume, 3, 1)
        # A thread that was not yet known to its pool is told to stop, but not waited for.
        while threading.active_count() > before:
            time.sleep(0.001)
        # It may come after the end was handed over: then the file is whole.
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} in ({}, {"a": b"0 1 2 "})


def test_a_consumer_that_leaves_items_is_a_fault() -> None:
    def first_only(items: Iterator[int]) -> None:
        next(items)

    for count in (2, 1000):
        with pytest.raises(RuntimeError, match="before its items did"):
            feed(first_only, count, 4)
    with pytest.raises(RuntimeError, match="before its items did"):
        feed(lambda items: None, 0, 4)


def test_one_after_the_other(tmp_path: Path) -> None:
    for name in "abc":
        with Handoff(writes(tmp_path / name)) as handoff:
            handoff.put(1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", "c"]


TEAMS = """
from threadpoolctl import threadpool_info
import torch
from histill.engine.handoff import Handoff

def teams():
    return sorted({each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp"})

found = [teams()]
with Handoff(lambda items: found.extend(teams() for _ in items)) as writer:
    writer.put(0)
print(*found, teams(), torch.get_num_threads())
"""


def test_the_consumer_has_one_thread_and_the_producer_keeps_its_team() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TEAMS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[2] [1] [2] 2"
