"""Whole slides end to end against the bare network: tiles a second, their ratio, peak memory.

Run it with nothing beside.

    python benchmarks/slides.py [--side 10000] [--method mlps] [--repeat 3] [--out DIR]

A made-up slide, made once, is segmented at 1 um/px by a network with random weights: tissue detection, reading, the
network, blending, label map, outlines, pictures. The bare network gets tiles of the same slide that are in memory
already, in the same batches. Both take turns in one process, with the same threads; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from histill.core.card import DatasetCard
from histill.core.config import read_yaml, resolve
from histill.core.manifest import Manifest, Sample
from histill.core.storage import remove
from histill.engine.run import Machine, build_fabric
from histill.engine.slides import SlideSettings, SlideWork, apply_to_slides
from histill.engine.stitching import Unreadable, read_tiles, segment_tiles
from histill.engine.training import LAYOUT, Trained
from histill.methods import find
from histill.slides.tiling import lay_grid
from histill.slides.tissue import find_tissue
from histill.slides.worker import open_guarded

ROOT = Path(__file__).parents[1]
NAMES = ("tumour", "stroma", "lymphocytes", "necrosis", "gland", "fat")
SIDE, MPP = 112, 1.0
IN_MEMORY = 256


def network(name: str) -> Trained:
    """A method with random weights, as its recipe has it."""
    kind = find(name)
    path = ROOT / "recipes" / f"{name}-cpu.yaml"
    none = {"segmenter": {"weights": "none"}, "classifier": {"weights": "none"}}
    if name == "supervised":
        del none["classifier"]
    torch.manual_seed(0)
    card = DatasetCard(classes=NAMES, synthetic=True)
    method = kind(resolve(kind.Config, (str(path), read_yaml(path)), ("none", none)), card.as_classes())
    return Trained(method.to(memory_format=LAYOUT).eval(), "random", card, {"mpp": MPP, "side": SIDE}, {}, ())


def bare(trained: Trained, slide: Path, machine: Machine, settings: SlideSettings) -> tuple[float, int]:
    """Tiles a second of the network alone, and how many tiles there are to do."""
    fabric = build_fabric(machine)
    work = SlideWork(trained, fabric, settings)
    with open_guarded(slide) as opened:
        frame = opened.at(work.mpp)
        tissue = find_tissue(opened)
        grid = lay_grid(frame, tissue, side=work.side, overlap=settings.overlap, least_tissue=settings.least_tissue)
        tiles = list(itertools.islice(read_tiles(opened, grid, Unreadable(most=0)), IN_MEMORY))
    again = itertools.islice(itertools.cycle(tiles), len(grid))
    begin = time.perf_counter()
    done = sum(len(maps.tiles) for maps in segment_tiles(again, work.method, fabric, work.side, settings.batch_size))
    return done / (time.perf_counter() - begin), len(grid)


def end_to_end(trained: Trained, slide: Path, machine: Machine, settings: SlideSettings, folder: Path) -> float:
    """Seconds for a slide, all that is written included."""
    remove(folder)
    table = Manifest((Sample("slide", slide, patient="p"),), trained.card, slide, "digest")
    begin = time.perf_counter()
    done = apply_to_slides(trained, table, folder, machine=machine, settings=settings)
    assert not done.quarantined, done
    assert not done.empty, done
    return time.perf_counter() - begin


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--method", default="mlps")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "slides")
    given = parser.parse_args()
    from histill.data.synthetic.slides import write_slide

    slide = given.out / f"made-{given.side}.tif"
    if not slide.exists():
        begin = time.perf_counter()
        write_slide(slide, width=given.side, height=given.side, mpp=0.5, seed=0, name="benchmark")
        print(f"made the slide: {given.side**2 / 1e6 / (time.perf_counter() - begin):.1f} Mpx/s")
    trained, machine = network(given.method), Machine(accelerator="cpu")
    settings = SlideSettings(batch_size=given.batch)
    alone, whole, count = [], [], 0
    for _ in range(given.repeat):
        speed, count = bare(trained, slide, machine, settings)
        alone.append(speed)
        whole.append(count / end_to_end(trained, slide, machine, settings, given.out / "predicted"))
    found = {
        "method": given.method,
        "slide px": given.side,
        "tiles": count,
        "threads": torch.get_num_threads(),
        "network tiles/s": round(statistics.median(alone), 1),
        "end to end tiles/s": round(statistics.median(whole), 1),
        "ratio": round(statistics.median(whole) / statistics.median(alone), 3),
        "each network": [round(each, 1) for each in alone],
        "each end to end": [round(each, 1) for each in whole],
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
