"""The journal: whole lines count, torn ones do not."""

from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.journal import Event, Journal, read_journal


def test_lasting_events_are_written_and_shown_passing_ones_only_shown(tmp_path: Path) -> None:
    heard: list[Event] = []
    journal = Journal(tmp_path / "run" / "journal.jsonl", heard.append)
    journal.say("epoch", number=1, loss=0.5)
    journal.show("progress", done=3)
    journal.say("end")
    assert heard == [
        {"event": "epoch", "number": 1, "loss": 0.5},
        {"event": "progress", "done": 3},
        {"event": "end"},
    ]
    written = read_journal(tmp_path / "run" / "journal.jsonl")
    assert all(datetime.fromisoformat(event.pop("time")).tzinfo is not None for event in written)
    assert written == [heard[0], heard[2]]


def test_without_a_file_or_a_listener_nothing_happens() -> None:
    Journal().say("epoch")
    Journal().show("progress")


def test_torn_lines_are_left_out_and_closed_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).say("one", text="µm")
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole + whole[:end])
        Journal(path).say("three")
        # A line that lacks nothing but its end is whole.
        lacking_end = ["one"] if end == len(whole) - 1 else []
        assert [event["event"] for event in read_journal(path)] == ["one", *lacking_end, "three"]


def test_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'\n3\n[1]\n\xff\xfe\n{"event": "real"}\n{"event"')
    assert read_journal(path) == [{"event": "real"}]


@settings(max_examples=40)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}_", fullmatch=True), st.text(st.characters(exclude_categories=()))))
def test_any_text_survives(tmp_path_factory: Any, details: dict[str, str]) -> None:
    # Line separators of Unicode and lone surrogates, as in names of files that are not UTF-8, are texts like others.
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    Journal(path).say("event", **details)
    Journal(path).say("next")
    first, second = read_journal(path)
    del first["time"]
    assert first == {"event": "event", **details}
    assert second["event"] == "next"
