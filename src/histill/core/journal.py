"""The journal: what a run did, one JSON line an event, and the voice of the library. Libraries print nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histill.core.storage import append_line

Event = dict[str, Any]


class Journal:
    """Appends events to a file and hands each to a listener (the command line shows them).

    Args:
        path: the journal's file, or None to keep nothing.
        listener: called with every event.

    The journal holds times and is no part of a run's result: two equal runs differ here and nowhere else.
    """

    def __init__(self, path: Path | None = None, listener: Callable[[Event], None] | None = None) -> None:
        self.path, self.listener = path, listener

    def say(self, event: str, **details: Any) -> None:
        """Note a lasting event: it is written, then shown."""
        entry = {"event": event, **details}
        if self.path is not None:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            append_line(self.path, json.dumps({"time": time, **entry}, ensure_ascii=False, default=str))
        if self.listener is not None:
            self.listener(entry)

    def show(self, event: str, **details: Any) -> None:
        """Show a passing event, such as progress within an epoch; it is not written."""
        if self.listener is not None:
            self.listener({"event": event, **details})


def read_journal(path: Path) -> list[Event]:
    """All whole lines of a journal; torn lines are left out."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
