"""The methods against each other: one command trains, predicts, scores and writes the tables; it skips what is done.

    python benchmarks/methods.py [--out DIR] [--jobs 2] [--only TEXT]

Data sets: made-up tissue, and the WSSS4LUAD and GlaS crops below HISTILL_DATA. Seeds and settings stand in this file
and in recipes/; both were fixed before a test image was looked at, on made-up training and validation patches alone.
Each job computes with one thread, so that jobs beside each other do not change a byte. Measure no speed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histill.cli.console import Console
from histill.cli.pages import pseudo_mask_table
from histill.core.manifest import Manifest, read_manifest
from histill.core.report import Number, Report, Table
from histill.core.storage import write_bytes, write_json
from histill.engine.scoring import open_predictions, score_predictions
from histill.metrics.segmentation import class_iou
from histill.metrics.summary import ImageScore, compare, summarise
from histill.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = DATA / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
SEEDS = (0, 1, 2)
METHODS = ("mlps", "cam", "supervised")
SYNTHETIC = {"train": 600, "val": 100, "test": 600, "size": 112, "mpp": 1.0, "seed": 0}
GLAS_IS_LARGER = {"classify.epochs": 3, "segment.epochs": 2}
ABLATIONS = {
    "no attention": {"attention": "false"},
    "one tap": {"tap_weights": "[1.0]"},
    "no gate": {"gate": "0"},
    "maps scaled together": {"map_scale": "together"},
}


@dataclass(frozen=True)
class DataSet:
    """A table and what differs on it from the recipes."""

    name: str
    make: list[str]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    rare: str = ""
    """a class that hardly any test image shows: the mean IoU is given without it too"""


@dataclass(frozen=True)
class Job:
    """One run: a method on a data set with a seed, or with one part switched off."""

    data: DataSet
    method: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        variant = f"-{self.variant.replace(' ', '-')}" if self.variant else ""
        return f"{self.data.name}-{self.method}{variant}-{self.seed}"


def data_sets() -> list[DataSet]:
    """The data sets that this machine has."""
    flags = [part for key, value in SYNTHETIC.items() for part in (f"--{key}", str(value))]
    glas = {
        "mlps": {**GLAS_IS_LARGER, "attention_warmup": 1},
        "cam": GLAS_IS_LARGER,
        "supervised": {"segment.epochs": GLAS_IS_LARGER["segment.epochs"]},
    }
    found = [DataSet("synthetic", ["synth", "tissue", "DIR", *flags])]
    if DATA.is_dir():
        found.append(
            DataSet("wsss4luad", ["import", "wsss4luad", str(DATA / "wsss4luad"), "--to", "CSV"], rare="normal")
        )
        found.append(DataSet("glas", ["import", "glas", str(DATA / "glas"), "--to", "CSV"], settings=glas))
    return found


def jobs(sets: list[DataSet]) -> list[Job]:
    """All runs, the first seed of each first."""
    listed = [Job(data, method, seed) for seed in SEEDS for data in sets for method in METHODS]
    return listed + [Job(sets[0], "mlps", 0, variant) for variant in ABLATIONS]


def table_of(data: DataSet, out: Path) -> Path:
    """The data set's table, made if need be."""
    path = out / "data" / data.name / "data.csv"
    if not path.exists():
        places = {"DIR": str(path.parent), "CSV": str(path)}
        histill([places.get(part, part) for part in data.make])
    return path


def run(job: Job, table: Path, out: Path) -> None:
    """Train and predict, in processes of their own; both go on where they were stopped."""
    folder = out / "runs" / job.name
    if (folder / "seconds.json").exists():
        return
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    settings: dict[str, Any] = {"select": "labels", "segmenter.weights": weights}
    if job.method != "supervised":
        settings["classifier.weights"] = weights
    settings |= job.data.settings.get(job.method, {}) | ABLATIONS.get(job.variant, {})
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    recipe = ROOT / "recipes" / f"{job.method}-cpu.yaml"
    began = time.monotonic()
    shared = ["--seed", str(job.seed), "--threads", "1"]
    histill(["train", job.method, "--train", table, "--recipe", recipe, "--run", folder / "run", *shared, *flags])
    trained = time.monotonic()
    histill(["predict", folder / "run", table, "--split", "test", "--to", folder / "predictions", "--threads", "1"])
    write_json(folder / "seconds.json", {"train": round(trained - began), "predict": round(time.monotonic() - trained)})
    print(f"{job.name}: {trained - began:.0f} s", flush=True)


def histill(given: list[str | Path]) -> None:
    """Run a verb; its output is shown only if it fails."""
    arguments = [str(each) for each in given]
    # Spinning threads of one job would take the other's core.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "histill", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"histill {' '.join(arguments)}\n{done.stdout}{done.stderr}")


def scores_of(job: Job, table: Manifest, out: Path) -> list[ImageScore] | None:
    """The scores of a finished run on the test images, else None."""
    folder = out / "runs" / job.name
    if not (folder / "seconds.json").exists():
        return None
    return score_predictions(open_predictions(folder / "predictions"), table.of_split("test")).scores


def report(data: DataSet, out: Path) -> Report:
    """The tables of one data set, of what is finished."""
    table = read_manifest(table_of(data, out))
    found = {(m, s): scores_of(Job(data, m, s), table, out) for m in METHODS for s in SEEDS}
    scored = {key: scores for key, scores in found.items() if scores is not None}
    rows = [_row(data, table, out, method, scored) for method in METHODS if any(m == method for m, _ in scored)]
    columns = ("method", "mIoU", *(f"mIoU without {data.rare}",) * bool(data.rare), "seeds")
    columns += ("Dice per image", "HD95 px", *(f"IoU {name}" for name in table.classes.names), "seconds to train")
    tables = [Table("Methods", columns, tuple(rows), "Means over seeds; in 'seeds' each seed's own mIoU. All pooled.")]
    numbers: dict[str, Number] = {}
    both = [seed for seed in SEEDS if ("mlps", seed) in scored and ("cam", seed) in scored]
    if both:
        mine, theirs = ([scored[method, seed] for seed in both] for method in ("mlps", "cam"))
        difference = compare(mine, theirs, table.classes, names=("mlps", "cam"))
        whole = difference.tables[0]
        headline = [row for row in whole.rows if str(row[0]).endswith(("mIoU", "mDice", "ACC", "FwIoU"))]
        tables.append(Table("mlps against cam", whole.columns, tuple(headline), whole.note))
        numbers |= difference.numbers
    tables += _ablations(data, table, out, scored.get(("mlps", 0)))
    for method, seed in ((method, seed) for method in ("mlps", "cam") for seed in SEEDS if (method, seed) in scored):
        masks = pseudo_mask_table(out / "runs" / Job(data, method, seed).name / "run", table, Console())
        if masks is not None:
            tables.append(Table(f"Pseudo-masks of {method}, seed {seed}", masks.columns, masks.rows, masks.note))
    settings = {"seeds": list(SEEDS), "select": "labels", "test images": len(table.of_split("test").samples)}
    return Report(f"Methods on {data.name}", numbers, tuple(tables), table.warnings, settings)


def _row(
    data: DataSet, table: Manifest, out: Path, method: str, scored: dict[tuple[str, int], list[ImageScore]]
) -> tuple[str | float, ...]:
    seeds = [seed for seed in SEEDS if (method, seed) in scored]
    reports = [summarise(scored[method, seed], table.classes).numbers for seed in seeds]
    by_class = [class_iou(sum(score.confusion for score in scored[method, seed])) for seed in seeds]
    names = table.classes.names

    def mean(values: list[float]) -> float:
        return round(float(np.mean(values)), 4)

    kept = [i for i, name in enumerate(names) if name != data.rare]
    rare = [mean([float(np.nanmean(iou[kept])) for iou in by_class])] if data.rare else []
    hd95 = [float(np.nanmean([report[f"per_image/HD95 px/{name}"].value for name in names])) for report in reports]
    seconds = [
        json.loads((out / "runs" / Job(data, method, s).name / "seconds.json").read_text())["train"] for s in seeds
    ]
    return (
        method,
        mean([report["pooled/mIoU"].value for report in reports]),
        *rare,
        ", ".join(f"{report['pooled/mIoU'].value:.3f}" for report in reports),
        mean([report["per_image/mDice"].value for report in reports]),
        mean(hd95),
        *(mean([float(iou[i]) for iou in by_class]) for i in range(len(names))),
        round(float(np.mean(seconds))),
    )


def _ablations(data: DataSet, table: Manifest, out: Path, whole: list[ImageScore] | None) -> list[Table]:
    rows = []
    for variant in ABLATIONS:
        scores = scores_of(Job(data, "mlps", 0, variant), table, out)
        if scores is None or whole is None:
            continue
        difference = compare([scores], [whole], table.classes, names=(variant, "mlps"))
        rows += [(variant, *row[1:5]) for row in difference.tables[0].rows if row[0] == "pooled/mIoU"]
    columns = ("mlps with", "mIoU", "mIoU of mlps", "difference", "verdict")
    return [Table("One part switched off, seed 0", columns, tuple(rows), "Pooled mIoU.")] if rows else []


def main() -> None:
    """Do what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only runs whose name holds this text")
    given = parser.parse_args()
    sets = data_sets()
    tables = {data.name: table_of(data, given.out) for data in sets}
    chosen = [job for job in jobs(sets) if given.only in job.name]
    with ThreadPoolExecutor(given.jobs) as pool:
        for _ in pool.map(lambda job: run(job, tables[job.data.name], given.out), chosen):
            pass
    pages = []
    for data in sets:
        made = report(data, given.out)
        write_bytes(RESULTS / f"methods-{data.name}.json", made.to_json().encode())
        pages.append(to_markdown(made))
    write_bytes(RESULTS / "methods.md", "\n".join(pages).encode())
    print(f"tables: {RESULTS / 'methods.md'}")


if __name__ == "__main__":
    main()
