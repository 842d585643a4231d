"""histill: from image labels to masks. One verb, one file; this one finds the verb and gives errors their exit code."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from histill.core.errors import Exit, HistillError

VERBS = {
    "demo": "demo",
    "synth": "synth",
    "import": "import_",
    "train": "train",
    "predict": "predict",
    "evaluate": "evaluate",
    "embed": "embed",
    "summarize": "summarize",
    "slide": "slide",
    "methods": "methods",
    "doctor": "doctor",
}
"""Verb -> module of this folder, in the order in which they are shown."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that spin while they wait starve whatever else runs on the machine: another run, the loader.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(given)
    except HistillError as error:
        if debug:
            raise
        print(f"histill: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print("histill: stopped; run the same command again to go on", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except _Terminated:
        print("histill: told to end; run the same command again to go on", file=sys.stderr)
        return int(Exit.TERMINATED)
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else int(Exit.USAGE)
    except BrokenPipeError:
        return int(Exit.DONE)
    except Exception as error:
        if debug:
            raise
        what = " ".join(str(error).split())
        print(f"histill: a bug: {type(error).__name__}: {what}. Run again with --debug and report it", file=sys.stderr)
        return int(Exit.BUG)


def _run(given: list[str]) -> int:
    if given[:1] == ["--version"]:
        from importlib.metadata import version

        print(version("histill"))
        return int(Exit.DONE)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return int(Exit.DONE)
    verb, *rest = given
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Choose one of: {', '.join(VERBS)}"
        raise HistillError(f"there is no verb '{verb}'", code=Exit.USAGE, mend=hint)
    return int(importlib.import_module(f"histill.cli.{VERBS[verb]}").run(rest))


def _help() -> str:
    lines = ["histill: from labels that say that disease is there to where it is.", "", "histill VERB ...", ""]
    for verb, module in VERBS.items():
        text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        lines.append(f"  {verb:<9} {(ast.get_docstring(ast.parse(text)) or '').partition(chr(10))[0]}")
    lines += [
        "",
        "histill VERB --help says more. --debug shows where an error came from. --version.",
        "",
        "A first look:    histill demo --to demo-out",
        "Your own images: histill import plain my.csv --classes tumour,stroma --to data.csv",
        "                 histill train mlps --train data.csv --run runs/first",
        "                 histill predict runs/first new-images --to masks",
    ]
    return "\n".join(lines)


class _Terminated(BaseException):
    """SIGTERM, as an exception: temporary files go, what was finished stays."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
