"""How verbs read their arguments and show what goes on: tyro and rich, behind two names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tyro
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from histill.core.errors import Exit, HistillError

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], given: list[str], verb: str) -> Arguments:
    """A verb's arguments, a dataclass; a mistake ends with the usage code, --help with 0."""
    with _usage_code():
        return tyro.cli(kind, args=given, prog=f"histill {verb}", config=(tyro.conf.FlagCreatePairsOff,))


def parse_known(kind: type[Arguments], given: list[str], verb: str) -> tuple[Arguments, list[str]]:
    """As `parse`, and the arguments that the verb does not know."""
    with _usage_code():
        return tyro.cli(
            kind, args=given, prog=f"histill {verb}", return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,)
        )


@contextlib.contextmanager
def _usage_code() -> Iterator[None]:
    try:
        yield
    except SystemExit as end:
        raise SystemExit(int(Exit.USAGE if end.code else Exit.DONE)) from None


class Console:
    """Shows a run's events: a bar for what passes, a line for what lasts. Quiet where nobody looks.

    Args:
        silent: show nothing at all.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._console = RichConsole(stderr=True, quiet=silent)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._doing = ""
        self._slide = "slide"

    @contextlib.contextmanager
    def showing(self) -> Iterator[Console]:
        """Show progress while the block runs."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=hidden) as self._progress:
            yield self
        self._progress, self._task, self._doing = None, None, ""

    def line(self, text: str) -> None:
        """One line for the user."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def counter(self, doing: str) -> Callable[[int, int], None]:
        """A function (done, of) that moves the bar of something named."""
        return lambda done, of: self._bar(doing, done, of)

    def listen(self, event: dict[str, Any]) -> None:
        """A journal's listener."""
        name = event["event"]
        if name == "step":
            self._bar(f"{event['stage']}, epoch {event['epoch'] + 1} of {event['epochs']}", event["done"], event["of"])
        elif name == "made":
            self._bar(str(event["what"]), event["done"], event["of"])
        elif name == "sample" and event["kind"] != "slides":
            self._bar(event["kind"], event["done"], event["of"])
        elif name == "sample":
            self._slide = f"slide {event['done']} of {event['of']}"
        elif name == "tiles":
            self._bar(f"{self._slide}, tiles", event["done"], event["of"])
        elif name in _LINES:
            self.line(_LINES[name](event))

    def _bar(self, doing: str, done: int, of: int) -> None:
        if self._progress is None:
            return
        if doing != self._doing or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._doing = self._progress.add_task(doing, total=of), doing
        self._progress.update(self._task, completed=done, total=of)


def _epoch(event: dict[str, Any]) -> str:
    losses = ", ".join(f"{name} {value:.4f}" for name, value in event["losses"].items())
    score = f", score {event['score']:.4f}" if "score" in event else ""
    return f"  {event['stage']} epoch {event['epoch'] + 1}: {losses}{score}"


def _stage(event: dict[str, Any]) -> str:
    begins = f", from epoch {event['begins_at'] + 1} on" if event["begins_at"] else ""
    if "begins_after" in event:
        begins = f", from epoch {event['begins_at'] + 1} on, after {event['begins_after']} of {event['of']} batches"
    return f"stage {event['stage']}: {event['epochs']} epochs of {event['samples']} samples{begins}"


_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "run": lambda e: (
        f"{e['method']}: {e['train']} {e['samples']} to learn from, "
        + (f"{e['more']} more of which nothing is known, " if "more" in e else "")
        + f"{e['val']} to choose with; "
        + f"{e['device']}, {e['precision']}"
        + (f", {e['processes']} processes" if "processes" in e else "")
    ),
    "stage": _stage,
    "stage loaded": lambda e: f"stage {e['stage']}: done before",
    "making": lambda e: f"making {e['what']}",
    "made again": lambda e: f"{e['what']} is made again: {e['why']}",
    "selecting": lambda e: f"epochs are chosen by {e['by']} of {e['samples']} validation samples",
    "epoch": _epoch,
    "note": lambda e: f"note: {e['text']}",
    "quarantined": lambda e: f"put aside: {e['why']}",
    "empty": lambda e: f"no tissue: {e['id']}: {e['why']}",
    "applied": lambda e: f"{e['total']} {e['kind']}: {e['reused']} done before, {e['quarantined']} put aside",
}


def share(text: str) -> float:
    """A share such as 5% or 0.05.

    Raises:
        HistillError: usage (2) if it is none.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise HistillError(f"'{text}' is not a share", code=Exit.USAGE, mend="Write 5% or 0.05")
    return value


def at_least(least: int, **flags: int) -> None:
    """Refuse flags whose number is too small to mean anything.

    Raises:
        HistillError: usage (2), naming the first of them.
    """
    for name, value in flags.items():
        if value < least:
            raise HistillError(f"{value} is less than {least}", code=Exit.USAGE, subject=f"--{name}", mend="Give more")


def spacing(**flags: float | None) -> None:
    """Refuse flags whose number cannot be a spacing in um/px.

    Raises:
        HistillError: usage (2), naming the first of them.
    """
    for name, value in flags.items():
        if value is None:
            continue
        from histill.slides.resolution import LEAST_MPP, MOST_MPP

        if not LEAST_MPP <= value <= MOST_MPP:
            raise HistillError(
                f"{value:g} um/px is no spacing of a slide",
                code=Exit.USAGE,
                subject=f"--{name}",
                mend=f"Give {LEAST_MPP:g} to {MOST_MPP:g}: 0.25 is usual for 40x, 0.5 for 20x",
            )


def is_help(given: list[str]) -> bool:
    """Whether the user asks for help."""
    return any(each in ("-h", "--help") for each in given)
