"""Does stage 2 of MLPS collapse? Its mIoU on validation masks after every epoch: one command, resumable.

    python benchmarks/noise.py [--out DIR] [--jobs 2]

Users of the released code saw their second stage fall to nothing from one epoch to the next. Here its mIoU on the true
masks of 100 made-up validation patches is noted after each of 24 epochs (15 steps of 20 patches each), for the CPU
recipe, for the recipe without what is meant against a collapse, and for the paper's optimiser. Those masks choose no
epoch of any other table. Each job computes with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from histill.core.report import Cell, Report, Table
from histill.core.storage import write_bytes
from histill.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = DATA / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
SEEDS = (0, 1, 2)
EPOCHS = 24
MADE_UP = {"train": 300, "val": 100, "test": 1, "size": 112, "mpp": 1.0, "seed": 5}
SHARED = {"classify.epochs": 8, "attention_warmup": 5, "drop_decay": 0.8, "segment.epochs": EPOCHS, "select": "masks"}
BARE = {"segment.warmup": 0.0, "segment.clip": 0.0}
PAPER = {
    "segment.optimizer": "sgd",
    "segment.learning_rate": 0.01,
    "segment.head_factor": 10.0,
    "segment.weight_decay": 5e-4,
    "segment.clip": 0.0,
}
VARIANTS: dict[str, dict[str, object]] = {
    "the CPU recipe (AdamW, warm-up, norm clipped)": {},
    "the CPU recipe, no warm-up, nothing clipped": BARE,
    "the paper's SGD, warm-up 0.05 (the default)": {**PAPER, "segment.warmup": 0.05},
    "the paper's SGD, no warm-up (as published)": {**PAPER, "segment.warmup": 0.0},
}
COLLAPSE = 0.5
"""an epoch below this share of the best one before it is a collapse"""


def main() -> None:
    """Do what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    table = given.out / "data" / "noise" / "data.csv"
    if not table.exists():
        flags = [part for key, value in MADE_UP.items() for part in (f"--{key}", str(value))]
        histill("synth", "tissue", str(table.parent), *flags)
    jobs = [(number, seed) for seed in SEEDS for number in range(len(VARIANTS))]
    with ThreadPoolExecutor(given.jobs) as pool:
        found = dict(zip(jobs, pool.map(lambda job: scores_of(*job, table, given.out), jobs), strict=True))
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(VARIANTS):
        for seed in SEEDS:
            rows.append((name if seed == SEEDS[0] else "", seed, *figures(found[number, seed])))
    columns = (
        *("stage 2", "seed", "best mIoU", "at epoch", "last mIoU", "lowest of the second half"),
        *("spread of the second half (SD)", "largest fall between epochs", "collapses"),
    )
    note = f"A collapse: an epoch below {COLLAPSE:.0%} of the best before it. {EPOCHS} epochs, counted from 0."
    each = tuple((name, s, " ".join(f"{v:.2f}" for v in found[n, s])) for n, name in enumerate(VARIANTS) for s in SEEDS)
    tables = (
        Table("Stage 2 from epoch to epoch", columns, tuple(rows), note),
        Table("mIoU after each epoch", ("stage 2", "seed", "mIoU"), each, ""),
    )
    report = Report("Noise of MLPS's second stage, on made-up tissue", {}, tables, (), {"seeds": list(SEEDS), **SHARED})
    write_bytes(RESULTS / "noise.md", to_markdown(report).encode())
    write_bytes(RESULTS / "noise.json", report.to_json().encode())
    print(f"tables: {RESULTS / 'noise.md'}")


def scores_of(variant: int, seed: int, table: Path, out: Path) -> list[float]:
    """The mIoU after each epoch, of a run that is made or gone on with if need be."""
    folder = out / "noise" / f"{variant}-{seed}"
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    start = {"classifier.weights": weights, "segmenter.weights": weights}
    settings = {**start, **SHARED, **list(VARIANTS.values())[variant]}
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    recipe = str(ROOT / "recipes" / "mlps-cpu.yaml")
    fixed = ["--recipe", recipe, "--seed", str(seed), "--threads", "1"]
    histill("train", "mlps", "--train", str(table), "--run", str(folder), *fixed, *flags)
    record = json.loads((folder / "stages" / "segment" / "record.json").read_bytes())
    return [float(score) for score in record["details"]["scores"]]


def figures(scores: list[float]) -> tuple[Cell, ...]:
    """Of one run: best, last, spread, falls and collapses."""
    values = np.array(scores)
    later = values[len(values) // 2 :]
    best_before = np.maximum.accumulate(values)[:-1]
    collapses = int((values[1:] < COLLAPSE * best_before).sum())
    fall = float(-np.diff(values).min(initial=0))
    numbers = (values.max(), int(values.argmax()), values[-1], later.min(), later.std(ddof=1), fall)
    return (*(round(float(n), 3) if not isinstance(n, int) else n for n in numbers), collapses)


def histill(*arguments: str) -> None:
    """Run a verb; its output is shown only if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "histill", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"histill {' '.join(arguments)}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
