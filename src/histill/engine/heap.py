"""Memory of large tensors kept from one network call to the next, where networks run on a CPU.

glibc gives every block above a threshold, at most 32 MiB by itself, back to the kernel as soon as it is free, and asks
for it anew: each feature map of each call is then made of fresh pages, which the kernel fills with zeros one by one.
Of SqueezeNet over 64 tiles of 256 px that was 45 % of the time.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""
LARGEST_KEPT = 1 << 30
"""Bytes of a block; larger ones, such as the maps of a whole slide, still go back at once."""
NEVER = -1


def keep_large_blocks() -> bool:
    """Have this process keep freed blocks for the next that wants them, rather than give them back.

    Its memory stays at its peak until it ends.

    Returns:
        Whether it is so now: only glibc can be told.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, NEVER))
