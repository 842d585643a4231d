"""Weak supervision and distillation for histopathology.

The names below are imported when they are first used, so that `import histill` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histill.core.manifest import Manifest as Manifest
    from histill.core.manifest import read_manifest as read_manifest
    from histill.data.predicted import open_predictions as open_predictions
    from histill.engine.images import apply_to_images as apply_to_images
    from histill.engine.scoring import score_predictions as score_predictions
    from histill.engine.slides import apply_to_slides as apply_to_slides
    from histill.methods import load as load
    from histill.methods import train as train
    from histill.metrics.summary import summarise as summarise
    from histill.slides.open import open_slide as open_slide

__version__ = "0.1.0"

_HOMES = {
    "Manifest": "histill.core.manifest",
    "read_manifest": "histill.core.manifest",
    "apply_to_images": "histill.engine.images",
    "apply_to_slides": "histill.engine.slides",
    "open_slide": "histill.slides.open",
    "open_predictions": "histill.data.predicted",
    "score_predictions": "histill.engine.scoring",
    "load": "histill.methods",
    "train": "histill.methods",
    "summarise": "histill.metrics.summary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'histill' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
