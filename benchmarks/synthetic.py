"""How fast made-up data are made: slides with their truth, and patches. Prints a table; writes only below --out.

    python benchmarks/synthetic.py [--out DIR] [--side 10000] [--mpp 0.25 0.5] [--patches 60] [--workers 2]

Wall time counts whatever else runs on the machine; the time of the processor, given beside it, much less so.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from histill.core.storage import remove
from histill.data.synthetic.patches import synthetic_patches
from histill.data.synthetic.slides import write_slide
from histill.data.synthetic.stained import render_slide_bank

ROOT = Path(__file__).parents[1]


def timed(deed: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor, all threads together."""
    clock, processor = time.perf_counter(), time.process_time()
    deed()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "synthetic")
    parser.add_argument("--side", type=int, default=10_000, help="of a slide in px")
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--patches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()

    print(f"{os.cpu_count()} cores; load when begun: {os.getloadavg()[0]:.1f}")
    kept = []
    seconds, processor = timed(lambda: kept.append(render_slide_bank(0)))
    print(f"bank: {seconds:.1f} s ({processor:.1f} s of the processor), once a data set")
    for mpp in given.mpp:
        path, truth = given.out / f"{mpp}.tif", given.out / f"{mpp}.ome.tif"
        size = {"width": given.side, "height": given.side, "mpp": mpp, "workers": given.workers}
        seconds, processor = timed(lambda: write_slide(path, truth=truth, bank=kept[0], **size))  # noqa: B023
        pixels = given.side**2 / 1e6
        print(
            f"slide {given.side} x {given.side} at {mpp} um/px: {pixels / seconds:.1f} Mpx/s on the clock, "
            f"{pixels / processor:.1f} Mpx for a second of one core; "
            f"{path.stat().st_size / 1e6:.0f} MB and {truth.stat().st_size / 1e6:.1f} MB of truth"
        )
        remove(path)
        remove(truth)
    seconds, processor = timed(lambda: [None for _ in synthetic_patches(given.patches, seed=0)])
    print(f"patches of 224 px, their bank included: {given.patches / seconds:.0f} a second ({processor:.1f} s)")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"peak memory: {peak:.2f} GiB; load when done: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
