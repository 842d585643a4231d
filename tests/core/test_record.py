"""The record: what counts as done, and what does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.record import OK, Record, describe, faults, fingerprint, read_record, still_holds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "deep" / "b.bin").write_bytes(b"")
    return tmp_path


def made(folder: Path) -> Record:
    return Record(OK, "settings", "source", describe(folder, ["deep/b.bin", "a.bin"]), {"tiles": 3})


def test_a_record_is_read_as_it_was_written(folder: Path) -> None:
    record = made(folder)
    record.write(folder / "record.json")
    assert read_record(folder / "record.json") == record
    assert list(record.outputs) == ["a.bin", "deep/b.bin"]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert record.outputs["deep/b.bin"] == (empty, 0)


def test_a_result_holds_while_nothing_changes(folder: Path) -> None:
    record = made(folder)
    assert faults(record, folder) == []
    assert still_holds(record, folder, settings="settings", source="source")
    assert not still_holds(record, folder, settings="others", source="source")
    assert not still_holds(record, folder, settings="settings", source="other")
    assert not still_holds(None, folder, settings="settings", source="source")


def test_each_change_of_a_file_is_told(folder: Path) -> None:
    record = made(folder)
    (folder / "a.bin").write_bytes(b"abd")
    assert faults(record, folder) == ["a.bin has changed since it was written"]
    (folder / "a.bin").write_bytes(b"ab")
    (folder / "deep" / "b.bin").unlink()
    assert faults(record, folder) == ["a.bin has 2 bytes, not 3", "deep/b.bin is missing"]
    assert not still_holds(record, folder, settings="settings", source="source")


def test_a_torn_or_foreign_record_does_not_count(folder: Path) -> None:
    path = folder / "record.json"
    assert read_record(path) is None
    made(folder).write(path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 5):
        path.write_bytes(whole[:end])
        assert read_record(path) is None, whole[:end]
    value = json.loads(whole)
    for change in ({"schema": 99}, {"outputs": []}, {"outputs": {"a": 1}}, {"outputs": {"a": ["x", "y"]}}, {"more": 1}):
        path.write_text(json.dumps(value | change))
        assert read_record(path) is None, change
    for foreign in ("[]", "3", "null", '"text"', "{}", "\xff"):
        path.write_text(foreign, encoding="latin-1")
        assert read_record(path) is None, foreign


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_like, max_size=4))
def test_a_fingerprint_does_not_see_the_order_of_keys(value: dict[str, Any]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))
    assert fingerprint(value) != fingerprint({**value, "one more": 1})


def test_a_fingerprint_sees_values_and_refuses_nan() -> None:
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"a": float("nan")})
