"""The methods against each other: one command trains, predicts, scores and writes the tables; it skips what is done.

    python benchmarks/methods.py [--out DIR] [--jobs 2] [--only TEXT]

Data sets: made-up tissue, and the WSSS4LUAD and GlaS crops below HISTILL_DATA. Seeds and settings stand in this file
and in recipes/; both were fixed before a test image was looked at: on another made-up set (seed 7), over three seeds.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from histill.cli.console import Console
from histill.cli.pages import pseudo_mask_table
from histill.core.manifest import Manifest, read_manifest
from histill.core.record import fingerprint
from histill.core.report import Cell, Number, Report, Table
from histill.core.storage import file_hash, remove, write_bytes, write_json
from histill.data.predicted import open_predictions
from histill.engine.scoring import score_predictions
from histill.metrics.segmentation import class_iou
from histill.metrics.summary import ImageScore, compare
from histill.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = DATA / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
SEEDS = (0, 1, 2)
METHODS = ("mlps", "cam", "supervised")
SYNTHETIC = {"train": 600, "val": 100, "test": 600, "size": 112, "mpp": 1.0, "seed": 2}
SHORTER = {"classify.epochs": 8}
GLAS_IS_LARGER = {"classify.epochs": 3, "segment.epochs": 2}
# Attention over the same last share of stage 1 as in the recipe, down to the same floor where there are epochs for it.
SHORTER_ATTENTION = {"attention_warmup": 5, "drop_decay": 0.8}
ABLATIONS = {
    "no attention": {"attention": "false"},
    "one tap": {"tap_weights": "[1.0]"},
    "no gate": {"gate": "0"},
    "maps scaled together": {"map_scale": "together"},
    "attention not normalised": {"normalise_attention": "false"},
    "attention as published": {"normalise_attention": "false", "attention_warmup": "3", "drop_decay": "0.985"},
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
        "mlps": {**GLAS_IS_LARGER, "attention_warmup": 2},
        "cam": GLAS_IS_LARGER,
        "supervised": {"segment.epochs": GLAS_IS_LARGER["segment.epochs"]},
    }
    found = [DataSet("synthetic", ["synth", "tissue", "DIR", *flags])]
    if DATA.is_dir():
        wsss4luad = ["import", "wsss4luad", str(DATA / "wsss4luad"), "--to", "CSV"]
        shorter = {"mlps": {**SHORTER, **SHORTER_ATTENTION}, "cam": SHORTER}
        found.append(DataSet("wsss4luad", wsss4luad, settings=shorter, rare="normal"))
        found.append(DataSet("glas", ["import", "glas", str(DATA / "glas"), "--to", "CSV"], settings=glas))
    return found


def jobs(sets: list[DataSet]) -> list[Job]:
    """All runs, the first seed of each first."""
    listed = [Job(data, method, seed) for seed in SEEDS for data in sets for method in METHODS]
    return listed + [Job(sets[0], "mlps", 0, variant) for variant in ABLATIONS]


def table_of(data: DataSet, out: Path) -> Path:
    """The data set's table, made if need be."""
    path = out / "data" / f"{data.name}-{fingerprint(data.make)[:8]}" / "data.csv"
    if not path.exists():
        places = {"DIR": str(path.parent), "CSV": str(path)}
        histill([places.get(part, part) for part in data.make])
    return path


def run(job: Job, table: Path, out: Path) -> None:
    """Train and predict, in processes of their own; both go on where they were stopped."""
    folder = out / "runs" / job.name
    if is_done(job, table, out):
        return
    if noted(folder / "begun.json") != identity(job, table):
        remove(folder)
        write_json(folder / "begun.json", {"of": identity(job, table)})
    shared = ["--seed", str(job.seed), "--threads", "1"]
    began = time.monotonic()
    flags, recipe = flags_of(job), recipe_of(job)
    histill(["train", job.method, "--train", table, "--recipe", recipe, "--run", folder / "run", *shared, *flags])
    histill(["predict", folder / "run", table, "--split", "test", "--to", folder / "predictions", "--threads", "1"])
    write_json(folder / "done.json", {"of": identity(job, table)})
    print(f"{job.name}: {time.monotonic() - began:.0f} s", flush=True)


def recipe_of(job: Job) -> Path:
    """The method's recipe."""
    return ROOT / "recipes" / f"{job.method}-cpu.yaml"


def flags_of(job: Job) -> list[str]:
    """What differs from the recipe."""
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    settings: dict[str, Any] = {"select": "labels", "segmenter.weights": weights}
    if job.method != "supervised":
        settings["classifier.weights"] = weights
    settings |= job.data.settings.get(job.method, {}) | ABLATIONS.get(job.variant, {})
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def identity(job: Job, table: Path) -> str:
    """A hash of what a run's result follows from: a run of another recipe, table or version is done again."""
    weights = file_hash(WEIGHTS) if WEIGHTS.exists() else "none"
    flags = [flag for flag in flags_of(job) if flag != str(WEIGHTS)]
    digest = read_manifest(table).digest
    return fingerprint([job.method, job.seed, flags, file_hash(recipe_of(job)), digest, weights, version("histill")])


def is_done(job: Job, table: Path, out: Path) -> bool:
    """Whether a run of just this kind is finished."""
    return noted(out / "runs" / job.name / "done.json") == identity(job, table)


def noted(path: Path) -> str | None:
    """The identity that a file notes, or None."""
    try:
        return str(json.loads(path.read_bytes())["of"])
    except OSError:
        return None


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


def scores_of(job: Job, table: Path, out: Path) -> list[ImageScore] | None:
    """The scores of a finished run on the test images, else None."""
    if not is_done(job, table, out):
        return None
    predictions = open_predictions(out / "runs" / job.name / "predictions")
    return score_predictions(predictions, read_manifest(table).of_split("test")).scores


def report(data: DataSet, out: Path) -> Report:
    """The tables of one data set, of what is finished."""
    path = table_of(data, out)
    table = read_manifest(path)
    scored: dict[str, list[list[ImageScore]]] = {}
    for method in METHODS:
        found = [scores_of(Job(data, method, seed), path, out) for seed in SEEDS]
        if all(scores is not None for scores in found):
            scored[method] = [scores for scores in found if scores is not None]
    tables: list[Table] = []
    numbers: dict[str, Number] = {}
    if "cam" in scored:
        compared = {m: compare(runs, scored["cam"], table.classes, names=(m, "cam")) for m, runs in scored.items()}
        values = {method: {row[0]: row[1] for row in each.tables[0].rows} for method, each in compared.items()}
        tables += [_pooled(data, table, scored, values), _per_image(table, values)]
        for method in ("mlps", "supervised"):
            if method in compared:
                whole = compared[method].tables[0]
                kept = [row for row in whole.rows if str(row[0]).endswith(("mIoU", "mDice", "ACC", "FwIoU"))]
                tables.append(Table(f"{method} against cam", whole.columns, tuple(kept), whole.note))
        if "mlps" in compared:
            numbers = dict(compared["mlps"].numbers)
    if "mlps" in scored:
        tables += _ablations(data, table, path, out, scored["mlps"][0])
    for method in ("mlps", "cam"):
        tables += _pseudo_masks(data, table, out, method) if method in scored else []
    settings = {"seeds": list(SEEDS), "select": "labels", "test images": len(table.of_split("test").samples)}
    return Report(f"Methods on {data.name}", numbers, tuple(tables), table.warnings, settings)


def _pooled(
    data: DataSet, table: Manifest, scored: dict[str, list[list[ImageScore]]], values: dict[str, dict[Cell, Cell]]
) -> Table:
    names = table.classes.names
    kept = [i for i, name in enumerate(names) if name != data.rare]
    rows: list[tuple[Cell, ...]] = []
    for method, runs in scored.items():
        by_seed = [class_iou(np.sum([score.confusion for score in run], axis=0)) for run in runs]
        without = [round(float(np.mean([np.nanmean(iou[kept]) for iou in by_seed])), 4)] if data.rare else []
        seeds = ", ".join(f"{np.nanmean(iou):.3f}" for iou in by_seed)
        measures = [values[method][f"pooled/{name}"] for name in ("mIoU", "FwIoU", "ACC", *(f"IoU/{n}" for n in names))]
        rows.append((method, measures[0], *without, seeds, *measures[1:]))
    columns = ("method", "mIoU", *((f"mIoU without {data.rare}",) if data.rare else ()), "mIoU of each seed")
    columns += ("FwIoU", "ACC", *(f"IoU {name}" for name in names))
    note = "Confusion matrices summed over the test images and the seeds; 95 % intervals over patients."
    return Table("Over the set (pooled)", columns, tuple(rows), note)


def _per_image(table: Manifest, values: dict[str, dict[Cell, Cell]]) -> Table:
    names = table.classes.names
    wanted = ("per_image/mIoU", "per_image/mDice", *(f"per_image/HD95 px/{name}" for name in names))
    rows = [(method, *(found.get(name) for name in wanted)) for method, found in values.items()]
    columns = ("method", "mIoU", "mDice", *(f"HD95 px {name}" for name in names))
    return Table(
        "Means over images (per image)", columns, tuple(rows), "Each image's mean over the seeds, then over images."
    )


def _pseudo_masks(data: DataSet, table: Manifest, out: Path, method: str) -> list[Table]:
    by_seed = []
    for seed in SEEDS:
        found = pseudo_mask_table(out / "runs" / Job(data, method, seed).name / "run", table, Console())
        by_seed += [(seed, found)] if found else []
    rows = [(seed, *row) for seed, found in by_seed for row in found.rows]
    return [Table(f"Pseudo-masks of {method}", ("seed", *f.columns), tuple(rows), f.note) for _, f in by_seed[:1]]


def _ablations(data: DataSet, table: Manifest, path: Path, out: Path, whole: list[ImageScore]) -> list[Table]:
    rows = []
    for variant in ABLATIONS:
        scores = scores_of(Job(data, "mlps", 0, variant), path, out)
        if scores is None:
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
