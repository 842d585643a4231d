"""Contents of files kept in memory."""

import pickle
from pathlib import Path

from histill.data.recent import Recent

READ: list[str] = []


def read(path: Path) -> bytes:
    READ.append(path.name)
    return bytes(int(path.suffix[1:]))


def names_read(recent: Recent[bytes], *names: str) -> list[str]:
    READ.clear()
    for name in names:
        assert recent.get(Path(name)) == bytes(int(name.split(".")[1]))
    return list(READ)


def test_what_was_used_longest_ago_goes_first() -> None:
    recent = Recent(read, len, 10)
    assert names_read(recent, "a.5", "b.5", "a.5", "c.5", "a.5", "b.5") == ["a.5", "b.5", "c.5", "b.5"]
    assert names_read(recent, "c.5", "d.1") == ["c.5", "d.1"]
    # As many go as must: of the two, both.
    assert names_read(recent, "e.9", "d.1", "c.5") == ["e.9", "c.5"]


def test_what_alone_takes_more_is_read_and_not_kept() -> None:
    recent = Recent(read, len, 10)
    assert names_read(recent, "a.5", "b.11", "b.11", "a.5") == ["a.5", "b.11", "b.11"]


def test_another_process_begins_with_nothing() -> None:
    recent = Recent(read, len, 10)
    names_read(recent, "a.5")
    twin = pickle.loads(pickle.dumps(recent))
    assert twin.limit == 10
    assert names_read(twin, "a.5") == ["a.5"]
