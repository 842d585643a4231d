"""The tables of a data set of tissues: methods against cam, parts switched off, pseudo-masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from methods_jobs import METHODS, SEEDS, DataSet, Job, scores_of, table_of, variants_of

from histill.cli.console import Console
from histill.cli.pages import pseudo_mask_table
from histill.core.manifest import Manifest, read_manifest
from histill.core.report import Cell, Number, Report, Table
from histill.metrics.segmentation import class_iou
from histill.metrics.summary import ImageScore, compare

HEADLINE = "pooled/mIoU"


def report(data: DataSet, out: Path) -> Report:
    """The tables of one data set, of what is finished."""
    path = table_of(data, out)
    table = read_manifest(path)
    scored: dict[str, list[list[ImageScore]]] = {}
    for method in METHODS[data.task]:
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
        numbers = {f"{HEADLINE}/{m}": n for m, found in values.items() if isinstance(n := found[HEADLINE], Number)}
        if "mlps" in compared:
            numbers |= compared["mlps"].numbers
    if "mlps" in scored:
        tables += _variants(data, table, path, out, scored["mlps"][0])
    for method in ("mlps", "cam"):
        tables += pseudo_masks(data, table, out, method) if method in scored else []
    settings = {"seeds": list(SEEDS), "select": "labels", "test images": len(table.of_split("test").samples)}
    return Report(f"Methods on {data.name}", numbers, tuple(tables), table.warnings, settings)


def pseudo_masks(data: DataSet, table: Manifest, out: Path, method: str) -> list[Table]:
    """How good a method's pseudo-masks of the training images are, seed by seed."""
    by_seed = []
    for seed in SEEDS:
        found = pseudo_mask_table(out / "runs" / Job(data, method, seed).name / "run", table, Console())
        by_seed += [(seed, found)] if found else []
    rows = [(seed, *row) for seed, found in by_seed for row in found.rows]
    return [Table(f"Pseudo-masks of {method}", ("seed", *f.columns), tuple(rows), f.note) for _, f in by_seed[:1]]


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


def _variants(data: DataSet, table: Manifest, path: Path, out: Path, whole: list[ImageScore]) -> list[Table]:
    rows = []
    for variant in variants_of("mlps", always=False):
        scores = scores_of(Job(data, "mlps", SEEDS[0], variant.name), path, out)
        if scores is None:
            continue
        difference = compare([scores], [whole], table.classes, names=(variant.name, "mlps"))
        rows += [(variant.name, *row[1:5]) for row in difference.tables[0].rows if row[0] == HEADLINE]
    columns = ("mlps with", "mIoU", "mIoU of mlps", "difference", "verdict")
    return [Table("One part switched off, seed 0", columns, tuple(rows), "Pooled mIoU.")] if rows else []
