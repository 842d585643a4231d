"""Runs a command line again and again, and kills it at the 1st, n-th, 2n-th ... event of its journal until it ends.

Run as: python struck.py EVERY ARGUMENT... Each attempt is a process of its own that goes on with what the last left; a
kill (SIGKILL, by itself) lets nothing be tidied up. Prints the exit codes as a JSON list; -9 is a kill.
"""

import json
import os
import signal
import sys

import histill.engine.apply
import histill.engine.training  # noqa: F401 - once, not in every child
from histill.cli.main import main
from histill.core.journal import Journal


def install(nth: int) -> None:
    """Kill this process right after the n-th event, written or shown."""
    say, show = Journal.say, Journal.show
    count = 0

    def struck(tell: object) -> object:
        def both(self: Journal, event: str, **details: object) -> None:
            nonlocal count
            tell(self, event, **details)  # type: ignore[operator]
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        return both

    Journal.say, Journal.show = struck(say), struck(show)  # type: ignore[method-assign, assignment]


def attempt(nth: int, arguments: list[str]) -> int:
    """The command line in a child process; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        install(nth)
        os.dup2(2, 1)
        code = main(arguments)
    finally:
        os._exit(code)


if __name__ == "__main__":
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        codes.append(attempt(1 + len(codes) * int(sys.argv[1]), sys.argv[2:]))
    print(json.dumps(codes))
