"""Summaries of a real slide against each other, by measures that no model has a hand in.

    python benchmarks/summaries.py --out DIR

The slide, TCGA-3C-AALI-01, is 500 tiles in CONCH v1.5 features below HISTILL_DATA; beside it lies the summary of 63 of
them that the authors of WSISum published. A way to choose with a random part chooses 20 times. WSISum learns from the
slide itself, which has no label, by recipes/wsisum-cpu.yaml with seeds 0, 1, 2; DIR keeps its runs.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import astuple, fields
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.config import read_yaml, resolve
from histill.core.manifest import Manifest, Sample
from histill.core.report import Cell, Number, Report, Table
from histill.core.storage import write_bytes
from histill.engine.run import Machine
from histill.engine.training import load, train
from histill.formats.trident import write_bag
from histill.methods import find as find_method
from histill.metrics.fidelity import RIDGE, Fidelity, fidelity, reconstruction
from histill.report.markdown import to_markdown
from histill.selection.baselines import ATTENTION, find, names

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data")) / "mil_features"
RESULTS = ROOT / "benchmarks" / "results"
SLIDE = "TCGA-3C-AALI-01"
SEEDS, LEARNED_SEEDS = range(20), (0, 1, 2)
RECIPE = ROOT / "recipes" / "wsisum-cpu.yaml"
RIDGES = (0.001, 0.01, RIDGE, 1.0)
MEASURES = {
    "nearest_cosine": "cosine to the nearest kept tile, mean",
    "mean_cosine": "cosine of the mean vectors",
    "reconstruction": "ridge reconstruction",
    "radius": "distance to the nearest kept tile, largest",
}
assert list(MEASURES) == [each.name for each in fields(Fidelity)]

Indices = NDArray[np.integer]


def read_slide() -> tuple[NDArray[np.float32], NDArray[np.int32], Indices]:
    """Features and coordinates of the slide's tiles, and the published summary's tiles among them."""
    with h5py.File(DATA / f"{SLIDE}_conch15_500patches.h5") as file:
        coords = file["coords"][:]
        # The row after the last tile is the slide's target.
        features = file["features"][: len(coords)]
    with h5py.File(DATA / f"{SLIDE}_wsisum_summary.h5") as file:
        published = file["features"][:]
    # It has no coordinates: its tiles are those whose features are the same.
    found = [np.flatnonzero((features == tile).all(1)) for tile in published]
    if any(len(tiles) != 1 for tiles in found):
        raise SystemExit(f"{sum(len(tiles) == 1 for tiles in found)} of {len(found)} published vectors are one tile")
    return features, coords, np.unique(np.concatenate(found))


def learned(out: Path) -> list[Indices]:
    """The tiles that WSISum keeps, learnt once for each seed."""
    features, coords, published = read_slide()
    path = out / "bags" / f"{SLIDE}.h5"
    bag = Bag(slide=SLIDE, features=features, coords=coords.astype(np.int64), tile_side=512, encoder="conch_v15")
    if not path.is_file():
        write_bag(path, bag)
    table = Manifest((Sample(SLIDE, path, patient=SLIDE),), DatasetCard(classes=("slide",)), path, "one slide")
    kind = find_method("wsisum")
    config = resolve(kind.Config, (RECIPE.name, read_yaml(RECIPE)))
    chosen = []
    for seed in LEARNED_SEEDS:
        machine = Machine(accelerator="cpu", precision="float32", threads=1)
        train(kind, table, None, folder=out / f"wsisum-{seed}", config=config, seed=seed, machine=machine)
        method = load(out / f"wsisum-{seed}", find_method).method
        chosen.append(method.summarise(bag, len(published), seed=seed).kept)
    return chosen


def choices(out: Path) -> dict[str, list[Indices]]:
    """The tiles that each way keeps, once for each seed."""
    features, coords, published = read_slide()
    chosen = {"wsisum": learned(out), "published": [published]}
    for name in names():
        if name != ATTENTION:  # there is no bag model for one slide
            chosen[name] = [find(name)(features, coords, len(published), seed) for seed in SEEDS]
    return chosen


def measured(values: NDArray[np.float64]) -> str:
    """Mean and spread over the seeds; the mean alone where all are the same."""
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if np.ptp(values) > 0 else "")


def report(out: Path) -> Report:
    """The tables."""
    features, _, published = read_slide()
    n, d = features.shape
    chosen = choices(out)
    scores = {name: np.array([astuple(fidelity(features, kept)) for kept in runs]) for name, runs in chosen.items()}
    rows: list[tuple[Cell, ...]] = [(name, *map(measured, each.T)) for name, each in scores.items()]
    ridges: list[tuple[Cell, ...]] = [
        (name, *(measured(np.array([reconstruction(features, kept, ridge) for kept in runs])) for ridge in RIDGES))
        for name, runs in chosen.items()
    ]
    note = (
        f"All {len(published)} published vectors are tiles of the slide, no two the same. Mean ± standard deviation "
        f"over {len(SEEDS)} seeds, of wsisum {len(LEARNED_SEEDS)}. Only the last measure is better where it is less. "
        "Attention is left out: one slide trains no bag model."
    )
    numbers = {}
    for name, each in scores.items():
        for measure, values in zip(MEASURES, each.T, strict=True):
            numbers[f"{name}/{measure}"] = Number(float(values.mean()), len(values))
            if len(values) > 1:
                numbers[f"{name}/{measure}/standard deviation"] = Number(float(values.std(ddof=1)), len(values))
    tables = (
        Table(f"{len(published)} of {n} tiles", ("tiles chosen by", *MEASURES.values()), tuple(rows), note),
        Table(
            "Reconstruction with other ridges",
            ("tiles chosen by", *(f"{ridge:g}" for ridge in RIDGES)),
            tuple(ridges),
            f"Ridges as shares of a tile's mean squared distance to the slide's mean; above it is {RIDGE:g}.",
        ),
    )
    warnings = ("One slide: figures say how ways to choose compare on it, not on others",)
    settings = {"slide": SLIDE, "tiles": n, "features": d, "budget": len(published), "seeds": len(SEEDS)}
    return Report("Summaries of a slide, model-free", numbers, tables, warnings, settings)


def main() -> None:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    made = report(parser.parse_args().out)
    write_bytes(RESULTS / "summaries.json", made.to_json().encode())
    write_bytes(RESULTS / "summaries.md", to_markdown(made).encode())
    print(f"tables: {RESULTS / 'summaries.md'}")


if __name__ == "__main__":
    main()
