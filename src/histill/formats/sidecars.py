"""Small JSON files beside features, which say what these are: numbers and texts, never a path that is followed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from histill.core.bags import bag_error
from histill.formats.guards import file_size

MOST_BYTES = 4 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file; nothing where there is no such file.

    Raises:
        HistillError: input (4) if there is one that is no JSON object.
    """
    if not path.is_file():
        return {}
    found = None
    if file_size(path) <= MOST_BYTES:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise bag_error(str(path), "no JSON object", "Copy the file again, or take it out")
    return found


def number_in(told: Any, *keys: str) -> float | None:
    """A number above 0 behind nested keys; None where there is none."""
    for key in keys:
        told = told.get(key) if isinstance(told, dict) else None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return float(told) if math.isfinite(told) and told > 0 else None


def whole_in(told: Any, *keys: str) -> int | None:
    """A whole number above 0 behind nested keys; None where there is none."""
    found = number_in(told, *keys)
    return None if found is None else round(found) or None


def text_in(told: Any, *keys: str) -> str:
    """A text behind nested keys; empty where there is none."""
    for key in keys:
        told = told.get(key) if isinstance(told, dict) else None
    return told if isinstance(told, str) else ""
