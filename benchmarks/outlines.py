"""Label map to QuPath GeoJSON against rasterio and json: one command makes the map, times both in turn, and compares.

    python benchmarks/outlines.py [--side 10000] [--repeats 3] [--rasterio PYTHON]

The map is made up, with a seed: regions of five classes in a piece of tissue, with ragged borders, holes, and specks of
a few pixels. Both sides start from the same array in memory, use one thread, and run in processes of their own, one
after the other in turn; the best time of each counts. histill writes the finished file to the disk, with ids, colours
and areas; rasterio's polygons are turned into JSON text by the json library and not even written.

rasterio is no part of histill: install it anywhere and name that Python with --rasterio.
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
from typing import Any

import numpy as np

IGNORE = 255
CLASSES = 5
SPACING = 0.5
LARGEST = 10_000


def label_map(side: int, seed: int) -> np.ndarray:
    """Smooth noise at several sizes, the largest of the classes at each place; nothing outside of the tissue.

    Mirrored beyond `LARGEST`, as the noise takes much memory.
    """
    import cv2

    if side > LARGEST:
        return np.pad(label_map(LARGEST, seed), (0, side - LARGEST), mode="symmetric")
    random = np.random.default_rng(seed)

    def noise(cell: int) -> np.ndarray:
        coarse = random.standard_normal((side // cell + 2, side // cell + 2)).astype(np.float32)
        return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)

    best = np.full((side, side), -np.inf, np.float32)
    labels = np.zeros((side, side), np.uint8)
    for label in range(CLASSES):
        field = noise(400)
        for cell, weight in ((90, 0.5), (24, 0.15)):
            field += weight * noise(cell)
        labels[field > best] = label
        np.maximum(best, field, out=best)
    del best
    labels[noise(2500) + 0.1 * noise(200) < -0.3] = IGNORE
    for _ in range(side * side // 100_000):
        x, y, size, label = (int(n) for n in random.integers((0, 0, 1, 0), (side, side, 6, CLASSES)))
        speck = labels[y : y + size, x : x + size]
        speck[speck != IGNORE] = label
    return labels


def ours(labels: np.ndarray, folder: Path) -> tuple[float, list[int], int]:
    """Seconds, area of each class in px as the file says, and how many polygons."""
    from histill.core.geometry import Frame
    from histill.core.labels import Classes
    from histill.formats.features import label_map_features, write_features

    height, width = labels.shape
    frame = Frame(width, height, SPACING, SPACING)
    classes = Classes(tuple(f"class {i}" for i in range(CLASSES)))
    path = folder / "map.geojson"
    start = time.perf_counter()
    bands = (labels[top : top + 1024] for top in range(0, height, 1024))
    count = write_features(path, label_map_features(bands, classes, frame), slide="slide")
    seconds = time.perf_counter() - start
    areas = [0] * CLASSES
    # One feature a line: never all of them in memory.
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"type":"Feature"'):
                properties = json.loads(line.rstrip(b",\n"))["properties"]
                areas[classes.index(properties["classification"]["name"])] += properties["measurements"]["area px"]
    return seconds, areas, count


def theirs(labels: np.ndarray) -> tuple[float, list[int], int]:
    """The same by rasterio and json; areas by the shoelace formula."""
    from rasterio.features import shapes

    start = time.perf_counter()
    found = list(shapes(labels, mask=labels != IGNORE, connectivity=4))
    features = [{"type": "Feature", "properties": {"class": int(label)}, "geometry": shape} for shape, label in found]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    seconds = time.perf_counter() - start
    assert text
    areas = [0.0] * CLASSES
    for shape, label in found:
        rings = [np.array(ring) for ring in shape["coordinates"]]
        sums = [abs(float((ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum())) / 2 for ring in rings]
        areas[int(label)] += sums[0] - sum(sums[1:])
    return seconds, [round(area) for area in areas], len(found)


def run(python: str, side: int, who: str, path: Path) -> dict[str, Any]:
    """One of the two, once, in a process of its own."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GDAL_NUM_THREADS"), "1")
    command = [python, __file__, "--side", str(side), "--run", who, "--map", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def peak_mib() -> float:
    """The most memory that this process has ever held; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def has_rasterio(python: str) -> bool:
    """Whether that Python can import it."""
    return subprocess.run([python, "-c", "import rasterio.features"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Time both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000, help="of the square map in px")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rasterio", default=sys.executable, metavar="PYTHON", help="a Python that has rasterio")
    parser.add_argument("--run", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--map", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        labels = np.fromfile(given.map, np.uint8).reshape(given.side, given.side)
        seconds, areas, count = ours(labels, given.map.parent) if given.run == "ours" else theirs(labels)
        mib = peak_mib() - labels.nbytes / 2**20
        print(json.dumps({"seconds": seconds, "areas": areas, "polygons": count, "mib": round(mib)}))
        return

    from histill.core.storage import write_bytes

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels"
        labels = label_map(given.side, given.seed)
        truth = np.bincount(labels.ravel(), minlength=CLASSES)[:CLASSES].tolist()
        write_bytes(path, labels.tobytes())
        del labels
        compares = has_rasterio(given.rasterio)
        sides = {"ours": sys.executable} | ({"theirs": given.rasterio} if compares else {})
        runs: dict[str, list[dict[str, Any]]] = {who: [] for who in sides}
        for _ in range(given.repeats):
            for who, python in sides.items():
                runs[who].append(run(python, given.side, who, path))
    for who, found in runs.items():
        if any(each["areas"] != truth for each in found):
            raise SystemExit(f"{who}: areas {found[0]['areas']} are not the map's {truth}")
        seconds = sorted(each["seconds"] for each in found)
        shown = ", ".join(f"{each:.2f}" for each in seconds)
        peak = max(each["mib"] for each in found)
        print(f"{who}: {shown} s; {found[0]['polygons']} polygons; {peak} MiB beside the map; areas exact")
    if compares:
        best = {who: min(each["seconds"] for each in found) for who, found in runs.items()}
        print(f"{given.side} x {given.side} px: {best['theirs'] / best['ours']:.1f} times as fast as rasterio and json")
    else:
        print(f"no rasterio in {given.rasterio}: nothing to compare with. Install it and name its Python by --rasterio")


if __name__ == "__main__":
    main()
