"""The record: a small JSON written last beside a result. The record is the truth; a file alone is not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from histill.core.storage import file_hash, write_json

SCHEMA = 1
OK, EMPTY, QUARANTINED = "ok", "empty", "quarantined"


@dataclass(frozen=True)
class Record:
    """What was made, from what, and how.

    Attributes:
        status: ok; empty (nothing to look at, `message` says why); or quarantined (put aside, `message` says why).
        settings: hash of the settings that matter to the result; see `fingerprint`.
        source: hash of the input's content.
        outputs: sha256 and size of each file, by its path relative to the record.
        details: counts and whatever a reader wants to know.
        message: why, for an empty or a quarantined input.
    """

    status: str
    settings: str
    source: str
    outputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write the record; call it after every output it names."""
        write_json(path, asdict(self))


def describe(folder: Path, names: list[str]) -> dict[str, tuple[str, int]]:
    """The `outputs` entry of files below a folder."""
    return {name: (file_hash(folder / name), (folder / name).stat().st_size) for name in sorted(names)}


def read_record(path: Path) -> Record | None:
    """Read a record; None if there is none, or it is torn or of another schema: then the result does not count."""
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            return None
        value["outputs"] = {name: (str(digest), int(size)) for name, (digest, size) in value["outputs"].items()}
        return Record(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def faults(record: Record, folder: Path) -> list[str]:
    """What is wrong with the files a record names: missing, of another size, or of another hash."""
    found = []
    for name, (digest, size) in record.outputs.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != size:
            found.append(f"{name} has {path.stat().st_size} bytes, not {size}")
        elif file_hash(path) != digest:
            found.append(f"{name} has changed since it was written")
    return found


def still_holds(record: Record | None, folder: Path, *, settings: str, source: str) -> bool:
    """Whether a result can be reused: same settings, same input, and every output verifies."""
    return record is not None and record.settings == settings and record.source == source and not faults(record, folder)


def fingerprint(value: Any) -> str:
    """A hash of JSON-like settings, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, allow_nan=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
