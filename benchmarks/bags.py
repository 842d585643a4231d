"""How fast a bag loads from a file of ours and from one in chunks of one row, as other tools write; and in what memory.

    python benchmarks/bags.py [--tiles 30000] [--width 1024] [--repeats 9] [--to FILE.md]

Both files hold the same random float32 numbers, lie in the system's cache, and are read in turn by processes of their
own with one thread; the best time of each counts. They are read by h5py alone, as other tools' readers do, and by
histill, which checks every claim of the file and every number. A bag of 200,000 x 1,536 is written and read once, for
the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LARGE = (200_000, 1536)


def write_rows(path: Path, features: np.ndarray) -> None:
    """Chunks of (1, d) that can grow, as TRIDENT and CLAM write."""
    import h5py

    count, width = features.shape
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(1, width), maxshape=(None, width))
        file.create_dataset("coords", data=np.zeros((count, 2), np.int64), chunks=(1, 2), maxshape=(None, 2))


def write_ours(path: Path, count: int, width: int) -> float:
    """A bag of ours; seconds for writing and syncing."""
    from histill.core.bags import Bag
    from histill.formats.trident import write_bag

    features = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    bag = Bag(slide=path.stem, features=features, coords=np.zeros((count, 2), np.int64), tile_side=512)
    start = time.perf_counter()
    write_bag(path, bag)
    return time.perf_counter() - start


def load(path: Path, how: str) -> float:
    """Seconds for the features of a file in memory."""
    import h5py

    from histill.data.bags import read_bag

    start = time.perf_counter()
    if how == "h5py":
        with h5py.File(path) as file:
            count = len(file["features"][:])
    else:
        count = len(read_bag(path))
    seconds = time.perf_counter() - start
    assert count
    return seconds


def peak_mib() -> float:
    """The most memory that this process has ever held; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(*arguments: object) -> dict[str, float]:
    """Do one thing in a process of its own, with one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def report(tiles: int, width: int, repeats: int) -> str:
    """The results as a page."""
    with tempfile.TemporaryDirectory() as name:
        ours, rows = Path(name) / "ours.h5", Path(name) / "rows.h5"
        child("--write", ours, "--tiles", tiles, "--width", width)
        child("--write", rows, "--tiles", tiles, "--width", width)
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(repeats):
            for how in ("h5py", "histill"):
                for file in (rows, ours):
                    found = child("--load", file, "--how", how)
                    seconds.setdefault((how, file.stem), []).append(found["seconds"])
        large = Path(name) / "large.h5"
        wrote = child("--write", large, "--tiles", LARGE[0], "--width", LARGE[1])
        read = child("--load", large, "--how", "histill")
    lines = [f"| {tiles:,} x {width:,} float32 | chunks of 1 row | ours | ratio |", "| --- | --- | --- | --- |"]
    for how, what in (("h5py", "h5py alone"), ("histill", "histill, every claim and number checked")):
        best = {stem: min(seconds[how, stem]) for stem in ("rows", "ours")}
        lines.append(f"| {what} | {best['rows']:.3f} s | {best['ours']:.4f} s | {best['rows'] / best['ours']:.1f} |")
    mib = LARGE[0] * LARGE[1] * 4 / 2**20
    return "\n".join(
        [
            "# Bags",
            "",
            f"`python benchmarks/bags.py --tiles {tiles} --width {width} --repeats {repeats}`",
            "",
            f"One thread, files in the system's cache, processes in turn, best of {repeats}; {os.cpu_count()} cores, "
            f"and at the end a load of {os.getloadavg()[0]:.1f}, nearly all of it other work.",
            "",
            *lines,
            "",
            f"A bag of {LARGE[0]:,} x {LARGE[1]:,} ({mib:,.0f} MiB of features): written in {wrote['seconds']:.1f} s, "
            f"read in {read['seconds']:.1f} s; peak memory of reading {read['mib']:,.0f} MiB, of making and writing "
            f"{wrote['mib']:,.0f} MiB.",
            "",
        ]
    )


def main() -> None:
    """Time both, or do what a child is told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=30_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--to", type=Path, help="where to write the page; left out, it is printed")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=("h5py", "histill"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write and given.write.stem == "rows":
        features = np.random.default_rng(0).standard_normal((given.tiles, given.width), dtype=np.float32)
        write_rows(given.write, features)
        print(json.dumps({"mib": peak_mib()}))
    elif given.write:
        print(json.dumps({"seconds": write_ours(given.write, given.tiles, given.width), "mib": peak_mib()}))
    elif given.load:
        print(json.dumps({"seconds": load(given.load, given.how), "mib": peak_mib()}))
    else:
        page = report(given.tiles, given.width, given.repeats)
        if given.to is None:
            print(page)
        else:
            from histill.core.storage import write_bytes

            write_bytes(given.to, page.encode())


if __name__ == "__main__":
    main()
