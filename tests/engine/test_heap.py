"""Large blocks are kept, so that the next tensor is not made of fresh pages."""

import subprocess
import sys

import pytest

from histill.engine.heap import keep_large_blocks
from histill.engine.run import Machine, build_fabric

ROUNDS, BYTES = 10, 64 << 20
COUNT = f"""
import resource
import torch
{{first}}
def fresh_pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    torch.full(({BYTES},), 1, dtype=torch.uint8)
use()
use()
before = fresh_pages()
for _ in range({ROUNDS}):
    use()
print(fresh_pages() - before)
"""


def _fresh_pages(first: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT.format(first=first)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_large_blocks(), reason="the C library is not glibc")
def test_large_blocks_are_kept_on_a_cpu() -> None:
    from_module = "from histill.engine.run import Machine, build_fabric; build_fabric(Machine(accelerator='cpu'))"
    # Where the heap grows once more, one round of ten is made of fresh pages.
    without, kept = _fresh_pages(""), _fresh_pages(from_module)
    assert kept < without / 3


def test_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A C library without mallopt."""

    monkeypatch.setattr("ctypes.CDLL", lambda name: Other())
    assert keep_large_blocks() is False
    build_fabric(Machine(accelerator="cpu"))  # goes on all the same
