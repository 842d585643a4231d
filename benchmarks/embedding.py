"""How much of the bare encoder's speed is left when slides are embedded: reading, tissue, grid and files included.

    python benchmarks/embedding.py SLIDE ... --out DIR [--encoder squeezenet1_0] [--weights FILE] [--threads 1]

The bare encoder is given as many tiles of the same size, already in memory, in the same batches. The two take turns in
one process (A B A B), each on all slides; times are on the clock, so run it with nothing beside: pixels are read by
another process while the encoder computes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

from histill.core.card import DatasetCard
from histill.core.manifest import Manifest, Sample
from histill.core.report import Cell, Report, Table
from histill.core.storage import write_bytes
from histill.data.bags import find_bags, open_bag
from histill.engine.embed import EmbedSettings, embed_slides, embed_tiles
from histill.engine.run import Machine, build_fabric
from histill.nets.embedders import build_embedder
from histill.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 3
AIM = 0.85


def main() -> None:
    """Measure, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the features")
    parser.add_argument("--encoder", default="squeezenet1_0")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--threads", type=int, default=1, help="of the encoder")
    given = parser.parse_args()
    machine = Machine(accelerator="cpu", threads=given.threads)
    embedder = build_embedder(given.encoder, given.weights)
    table = Manifest(
        tuple(Sample(path.stem, path, patient=path.stem) for path in given.slides),
        DatasetCard(classes=("slide",)),
        given.slides[0],
        "slides",
    )
    settings, fabric = EmbedSettings(), build_fabric(machine)
    embedder = embedder.to(fabric.device).eval()
    whole, bare, tiles, before = [], [], 0, os.getloadavg()[0]
    for turn in range(ROUNDS + 1):
        began = time.perf_counter()
        embed_slides(embedder, table, given.out / str(turn), machine=machine, settings=settings)
        took = time.perf_counter() - began
        bags = find_bags(given.out / str(turn))
        tiles = sum(open_bag(path).shape[0] for path in bags.values())
        images = np.random.default_rng(0).integers(0, 256, (64, settings.tile, settings.tile, 3), np.uint8)
        stream = ((i, images[i % 64]) for i in range(tiles))
        began = time.perf_counter()
        for _ in embed_tiles(stream, embedder, fabric, settings.tile, settings.batch_size):
            pass
        # The first turn warms up.
        if turn:
            whole.append(took)
            bare.append(time.perf_counter() - began)
    ratio = statistics.median(b / w for b, w in zip(bare, whole, strict=True))
    rows: tuple[tuple[Cell, ...], ...] = (
        ("bare encoder", f"{tiles / statistics.median(bare):.1f}", ""),
        ("histill embed", f"{tiles / statistics.median(whole):.1f}", f"{ratio:.0%}"),
    )
    names = ", ".join(path.stem for path in given.slides)
    note = f"{tiles} tiles of {names}; medians of {ROUNDS} turns. The aim is {AIM:.0%}."
    warnings = ("Other work ran on the machine while this was measured",) if before > 0.7 else ()
    settings_of = {"encoder": given.encoder, "threads": given.threads, "load before": round(before, 1)}
    made = Report(
        "Embedding", {}, (Table("Tiles a second", ("", "tiles/s", "share"), rows, note),), warnings, settings_of
    )
    write_bytes(RESULTS / "embedding.json", made.to_json().encode())
    write_bytes(RESULTS / "embedding.md", to_markdown(made).encode())
    print(f"{ratio:.1%} of the bare encoder; table: {RESULTS / 'embedding.md'}")


if __name__ == "__main__":
    main()
