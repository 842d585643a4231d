"""Being told to end, by SIGTERM (a scheduler, a time limit) or Ctrl-C, at a moment that suits."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from histill.core.errors import Exit, HistillError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """While its block runs, SIGTERM and Ctrl-C are noted; when it has ended well, the one that came is obeyed.

    To obey is to hand it to whatever handled it before: the command line's handler, Python's KeyboardInterrupt, or the
    system, which ends the process. A second Ctrl-C is obeyed at once. A signal that was ignored stays so, and threads
    other than the main one are told nothing.

    Args:
        patient: for a second Ctrl-C too: torchrun hands on the one that the terminal has sent already.

    Attributes:
        asked: the signal that came; None for none. May be set, where another process was told.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.asked: signal.Signals | None = None
        self._patient = patient
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._before):
            self._restore(number)
        if self.asked is None or kind is not None:
            return
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(self.asked)
        # Whoever handles it came back.
        raise HistillError("told to end", code=Exit.TERMINATED, mend="Run the same command again to go on")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None and number == signal.SIGINT and not self._patient:
            self._restore(signal.SIGINT)
        self.asked = signal.Signals(number)

    def _restore(self, number: signal.Signals) -> None:
        signal.signal(number, self._before.pop(number))  # type: ignore[arg-type]
