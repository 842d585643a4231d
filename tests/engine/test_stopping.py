"""Signals that are noted first and obeyed later."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from histill.core.errors import Exit, HistillError
from histill.engine.stopping import Stopping

TERM, INT = signal.SIGTERM, signal.SIGINT


class Obeyed(BaseException):
    pass


def obey(number: int, frame: object) -> None:
    raise Obeyed(number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.signal(number, obey) for number in (TERM, INT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def strike(number: int) -> None:
    os.kill(os.getpid(), number)


def reached(*numbers: signal.Signals, patient: bool = False) -> list[object]:
    """Which of these signals a block was sent and went on after, and how it ended."""
    found: list[object] = []
    try:
        with Stopping(patient=patient) as stopping:
            for number in numbers:
                strike(number)
                found.append(stopping.asked)
        found.append("end")
    except Obeyed as end:
        found.append(end.args[0])
    assert signal.getsignal(TERM) is signal.getsignal(INT) is obey
    return found


def test_a_signal_is_obeyed_when_the_block_ends() -> None:
    assert reached(TERM) == [TERM, TERM]
    assert reached(INT) == [INT, INT]


def test_without_a_signal_nothing_happens() -> None:
    assert reached() == ["end"]


def test_another_sigterm_changes_nothing_but_a_second_ctrl_c_is_obeyed_at_once() -> None:
    assert reached(TERM, TERM, TERM) == 4 * [TERM]
    assert reached(INT, INT) == [INT, INT]
    assert reached(INT, INT, patient=True) == [INT, INT, INT]


def test_an_error_in_the_block_goes_before() -> None:
    def fail() -> None:
        with Stopping():
            strike(TERM)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert signal.getsignal(TERM) is obey


def test_what_another_process_was_told_is_obeyed_here() -> None:
    with pytest.raises(Obeyed), Stopping() as stopping:
        stopping.asked = TERM


def test_a_handler_that_comes_back_does_not_let_training_go_on() -> None:
    signal.signal(TERM, lambda number, frame: None)
    with pytest.raises(HistillError, match="told to end") as caught, Stopping():
        strike(TERM)
    assert caught.value.code == Exit.TERMINATED


def test_what_is_ignored_stays_so() -> None:
    signal.signal(TERM, signal.SIG_IGN)
    with Stopping() as stopping:
        strike(TERM)
    assert stopping.asked is None


def test_in_a_thread_signals_are_left_alone() -> None:
    found = []

    def work() -> None:
        with Stopping():
            found.append(signal.getsignal(TERM))
        try:
            with Stopping() as stopping:
                stopping.asked = TERM
        except HistillError as error:
            found.append(error.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [obey, Exit.TERMINATED]
