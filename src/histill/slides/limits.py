"""What the reader of a slide may use, and how a process holds itself to it."""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    import resource
except ImportError:  # Windows: `limits_supported` says so.
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Limits:
    """What a reader may use.

    Attributes:
        memory: bytes of address space beyond what it has when it starts.
        cpu: seconds of processor time for one request.
        wall: seconds that one request is waited for. Opening is a request.
    """

    memory: int = 3 << 30
    cpu: float = 60
    wall: float = 60

    @property
    def memory_text(self) -> str:
        """The memory as people say it."""
        return f"{self.memory / (1 << 30):.3g} GiB"


LIMITS = Limits()


def limits_supported() -> str | None:
    """What this system lacks to keep a reader within its limits, as a sentence; None if nothing."""
    if resource is None:
        return "this system limits neither memory nor processor time of a slide's reader; only the waiting time holds"
    if sys.platform == "darwin":
        return "this system does not limit the memory of a slide's reader; the limits of time hold"
    return None


def limit_memory(limits: Limits) -> None:
    """Hold this process to the memory it has and `limits.memory` more; and let it leave no core dump."""
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_AS", _address_space() + limits.memory)


def limit_processor(limits: Limits) -> None:
    """Hold this process to the processor time it has used and `limits.cpu` more; the system ends it beyond that."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit("RLIMIT_CPU", math.ceil(used.ru_utime + used.ru_stime + limits.cpu))


def _limit(name: str, most: int) -> None:
    if resource is not None:
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        # macOS has some limits by name only.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()
