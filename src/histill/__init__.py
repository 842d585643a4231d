"""Weak supervision and distillation for histopathology.

The names below are imported when they are first used, so that `import histill` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histill.core.manifest import Manifest as Manifest

__version__ = "0.1.0"

_HOMES = {
    "Manifest": "histill.core.manifest",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'histill' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
