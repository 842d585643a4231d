"""What summarising costs: time and memory by the size of a slide, and the search beside plain random trials.

    python benchmarks/summarising.py --out DIR

Made-up slides of 10, 50 and 200 thousand tiles with 1,024 features in 40 kinds, a budget of 64, one thread; the network
is that of recipes/wsisum-cpu.yaml, learnt from the smallest of them. Each measurement is a process
of its own; times are the processor's, so that other work beside counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.config import read_yaml, resolve
from histill.core.manifest import Manifest, Sample
from histill.core.report import Cell, Report, Table
from histill.core.seeds import generator
from histill.core.storage import write_bytes
from histill.data.bags import read_bag
from histill.engine.run import Machine
from histill.engine.training import load, train
from histill.formats.trident import write_bag
from histill.methods import find
from histill.report.markdown import to_markdown
from histill.selection.search import SearchSettings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SIZES = (10_000, 50_000, 200_000)
WIDTH, KINDS, BUDGET, SIDE = 1024, 40, 64, 512
TRIALS = 1000
SEARCH = SearchSettings(trials=16, swaps=128)
"""Of the comparison: subsets scored in all, 144 at most, beside 1,000 random ones."""


def made_up(tiles: int, to: Path) -> Path:
    """A bag of kinds of tiles in patches on the slide, made once."""
    path = to / f"slide-{tiles}.h5"
    if not path.is_file():
        random = generator(0, "slide", tiles)
        side = int(np.ceil(np.sqrt(tiles)))
        y, x = np.divmod(np.arange(tiles), side)
        kind = ((np.sin(x / 9) + np.cos(y / 7) + random.normal(0, 0.3, tiles) + 2.5) * KINDS / 5).astype(int) % KINDS
        features = random.normal(0, 1, (KINDS, WIDTH)).astype(np.float32)[kind]
        features += random.normal(0, 0.7, features.shape).astype(np.float32)
        coords = np.stack([x * SIDE, y * SIDE], axis=1).astype(np.int64)
        write_bag(path, Bag(slide=path.stem, features=features, coords=coords, tile_side=SIDE))
    return path


def run_of(out: Path, score: str) -> Path:
    """A run of wsisum on the smallest slide, made once."""
    kind, path = find("wsisum"), made_up(SIZES[0], out)
    recipe = read_yaml(ROOT / "recipes" / "wsisum-cpu.yaml")
    config = resolve(kind.Config, ("recipe", recipe), ("this benchmark", {"score": score}))
    table = Manifest((Sample("slide", path, patient="slide"),), DatasetCard(classes=("slide",)), path, "made up")
    machine = Machine(accelerator="cpu", precision="float32", threads=1)
    train(kind, table, None, folder=out / f"run-{score}", config=config, seed=0, machine=machine)
    return out / f"run-{score}"


def measure(out: Path, tiles: int, score: str, search: SearchSettings | None) -> dict[str, Any]:
    """Summarise one slide, in a process of its own: this one."""
    method = load(run_of(out, score), find).method
    if search is not None:
        method.config = method.config.model_copy(update={"search": search})
    path = made_up(tiles, out)
    began = time.process_time()
    bag = read_bag(path)
    read = time.process_time()
    found = method.summarise(bag, BUDGET, seed=0)
    return {
        "reading": read - began,
        "seconds": time.process_time() - read,
        "score": found.score,
        "reconstruction": found.reconstruction,
        "gib": most_memory(),
    }


def most_memory() -> float:
    """The most memory that this process had, GiB; what `getrusage` says may be its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**20


def child(out: Path, tiles: int, score: str, search: SearchSettings | None = None) -> dict[str, Any]:
    """`measure` in a process of its own."""
    run_of(out, score)
    made_up(tiles, out)
    given = json.dumps({"tiles": tiles, "score": score, "search": search.model_dump() if search else None})
    command = [sys.executable, __file__, "--out", str(out), "--one", given]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{tiles} tiles, {score}: {found}", flush=True)
    return found


def report(out: Path) -> Report:
    """The tables."""
    sizes = {tiles: child(out, tiles, "likeness") for tiles in SIZES}
    rows: list[tuple[Cell, ...]] = [
        (
            f"{tiles:,}",
            f"{each['reading']:.1f}",
            f"{each['seconds']:.1f}",
            f"{1e6 * each['seconds'] / tiles:.0f}",
            f"{each['gib']:.2f}",
        )
        for tiles, each in sizes.items()
    ]
    ours = child(out, SIZES[0], "reconstruction", SEARCH)
    plain = child(out, SIZES[0], "reconstruction", SearchSettings(trials=TRIALS, swaps=0))
    ratio = ours["seconds"] / plain["seconds"]
    found: list[tuple[Cell, ...]] = [
        (
            f"{TRIALS} random trials",
            f"{plain['seconds']:.1f}",
            "",
            f"{plain['score']:.5f}",
            f"{plain['reconstruction']:.5f}",
        ),
        ("search", f"{ours['seconds']:.1f}", f"{ratio:.1%}", f"{ours['score']:.5f}", f"{ours['reconstruction']:.5f}"),
    ]
    tables = (
        Table(
            "Slides of different size",
            ("tiles", "reading, s", "summarising, s", "us a tile", "memory at most, GiB"),
            tuple(rows),
            f"A budget of {BUDGET} tiles, chosen by likeness. The aim: 200,000 under 6 GiB, cost linear in tiles.",
        ),
        Table(
            f"The search beside random trials, {SIZES[0]:,} tiles",
            ("", "s", "share of time", "score on the sample", "score on all tiles"),
            tuple(found),
            "Chosen by reconstruction, the paper's score. The aim: a better score in a fifth of the time.",
        ),
    )
    load_now = os.getloadavg()[0]
    settings = {"width": WIDTH, "threads": 1, "search": SEARCH.model_dump(), "load after": round(load_now, 1)}
    return Report("What summarising costs", {}, tables, (), settings)


def main() -> None:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of slides and runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        asked = json.loads(given.one)
        search = SearchSettings(**asked["search"]) if asked["search"] else None
        print(json.dumps(measure(given.out, asked["tiles"], asked["score"], search)))
        return
    made = report(given.out)
    write_bytes(RESULTS / "summarising.json", made.to_json().encode())
    write_bytes(RESULTS / "summarising.md", to_markdown(made).encode())
    print(f"tables: {RESULTS / 'summarising.md'}")


if __name__ == "__main__":
    main()
