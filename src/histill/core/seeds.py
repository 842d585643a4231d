"""Random numbers that follow from names: (run seed, stage, epoch, sample), never from a shared stream.

So one worker equals n workers, and a run that was killed and resumed equals one that was not.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed that follows from the run's seed and the place where it is used.

    Example: ``derive(0, "segment", epoch, sample.id)``.
    """
    text = "\x1f".join([str(seed), *(f"{type(step).__name__}:{step}" for step in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator of its own for this place; see `derive`."""
    return np.random.default_rng(derive(seed, *path))
