"""The tables of a data set of lesions: how well the lesion is found, and what each method owes to its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from methods_jobs import BASELINES, METHODS, SEEDS, DataSet, Job, Variant, scores_of, table_of, variants_of
from methods_parts import PARTS, part_scores
from methods_tissues import pseudo_masks

from histill.core.labels import Classes
from histill.core.manifest import Manifest, read_manifest
from histill.core.report import Cell, Number, Report, Table
from histill.metrics.segmentation import class_dice
from histill.metrics.summary import LEAST_PATIENTS, ImageScore, compare

HEADLINE = "pooled/Dice"
Runs = Sequence[Sequence[ImageScore]]
"""Scores seed by seed, of the same images in the same order."""


@dataclass(frozen=True)
class Measure:
    """What is measured of the lesion: over which images, and what `compare` calls it."""

    name: str
    images: str
    source: str


MEASURES = (
    Measure("pooled/Dice", "all", "pooled/Dice/{lesion}"),
    Measure("pooled/IoU", "all", "pooled/IoU/{lesion}"),
    Measure("per_image/Dice", "with", "per_image/Dice/{lesion}"),
    Measure("per_image/IoU", "with", "per_image/IoU/{lesion}"),
    Measure("per_image/HD95 um", "with", "per_image/HD95 um/{lesion}"),
    # Where no pixel is true, those that are found are what lacks to an accuracy of 1.
    Measure("pooled/false positives", "without", "pooled/ACC"),
)
IMAGES: dict[str, Callable[[ImageScore, int], bool]] = {
    "all": lambda score, lesion: True,
    "with": lambda score, lesion: bool(score.confusion[lesion].sum()),
    "without": lambda score, lesion: not score.confusion[lesion].sum(),
}
RULES = (
    "Pooled: confusion matrices summed over all test images and the seeds. Per image: over images that show the "
    "lesion, each image's mean over the seeds; HD95 where prediction and truth both have it. False positives: share of "
    "the pixels of images without the lesion. Witnesses are told the test images' labels, so they have none. Brackets "
    "are 95 % intervals over patients. One beats the other if the interval of their paired difference lies on its side "
    f"of 0, and there are at least {LEAST_PATIENTS} patients."
)


def report(data: DataSet, out: Path) -> Report:
    """The tables of one data set, of what is finished."""
    path = table_of(data, out)
    table = read_manifest(path)
    scored = _scored(data, path, out)
    tables: list[Table] = []
    numbers: dict[str, Number] = {}
    if scored:
        values = {name: paired(runs, runs, table.classes, (name, name)) for name, runs in scored.items()}
        tables += [_pooled(scored, values, table.classes), _per_image(values)]
        numbers = {
            f"{HEADLINE}/{name}": n for name, each in values.items() if isinstance(n := each[HEADLINE][0], Number)
        }
    for name, other in _pairs(scored):
        found = paired(scored[name], scored[other], table.classes, (name, other))
        columns = ("measure", name, other, "difference", "verdict", "images")
        rows = tuple((measure, *row) for measure, row in found.items())
        tables.append(Table(f"{name} against {other}", columns, rows))
    tables += _variants(data, table, path, out)
    for method in ("glmkd", "cam"):
        tables += pseudo_masks(data, table, out, method) if method in scored else []
    settings = {"seeds": list(SEEDS), "select": "labels", "test images": len(table.of_split("test").samples)}
    return Report(f"Methods on {data.name}", numbers, tuple(tables), table.warnings, settings)


def paired(a: Runs, b: Runs, classes: Classes, names: tuple[str, str]) -> dict[str, tuple[Cell, ...]]:
    """Every measure of A, of B, their paired difference, the verdict, and the number of images."""
    lesion = classes.lesion
    a, b = _where_both_found(a, b, lesion)
    rows: dict[str, dict[Cell, tuple[Cell, ...]]] = {}
    for images, shown in IMAGES.items():
        of_a, of_b = ([[score for score in run if shown(score, lesion)] for run in runs] for runs in (a, b))
        if of_a[0]:
            compared = compare(of_a, of_b, classes, names=names).tables[0]
            rows[images] = {row[0]: row[1:] for row in compared.rows}
    found: dict[str, tuple[Cell, ...]] = {}
    for measure in MEASURES:
        row = rows.get(measure.images, {}).get(measure.source.format(lesion=classes.names[lesion]))
        if row is not None:
            found[measure.name] = _false_positives(row) if measure.images == "without" else row
    return found


def _false_positives(row: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The row of an accuracy, told as what lacks to 1."""
    *numbers, verdict, images = row
    turned = [
        Number(whole - n.value, n.n, *(whole - end for end in (n.high, n.low) if end is not None))
        for whole, n in zip((1, 1, 0), numbers, strict=True)
        if isinstance(n, Number)
    ]
    return (*turned, verdict, images)


def _where_both_found(a: Runs, b: Runs, lesion: int) -> tuple[Runs, Runs]:
    """The same scores, with a distance only where both found some lesion."""

    def found(score: ImageScore) -> bool:
        return bool(score.confusion[:, lesion].sum())

    kept: tuple[list[list[ImageScore]], list[list[ImageScore]]] = ([], [])
    for runs in zip(a, b, strict=True):
        both = [found(one) and found(other) for one, other in zip(*runs, strict=True)]
        for side, run in zip(kept, runs, strict=True):
            side.append(
                [
                    s if keep else replace(s, hd95=np.full_like(s.hd95, np.nan))
                    for s, keep in zip(run, both, strict=True)
                ]
            )
    return kept


def _scored(data: DataSet, path: Path, out: Path) -> dict[str, Runs]:
    """The scores of each method, of what is always run of it, and of its parts, where every seed is done."""
    scored: dict[str, Runs] = {}

    def keep(name: str, runs: list[list[ImageScore] | None]) -> None:
        done = [run for run in runs if run is not None]
        if len(done) == len(runs):
            scored[name] = done

    for method in METHODS[data.task]:
        keep(method, [scores_of(Job(data, method, seed), path, out) for seed in SEEDS])
        for variant in variants_of(method, always=True):
            runs = [scores_of(Job(data, method, seed, variant.name), path, out) for seed in SEEDS]
            keep(f"{method}, {variant.name}", runs)
        for part in PARTS.get(method, {}):
            keep(f"{method}, {part}", [part_scores(Job(data, method, seed), part, path, out) for seed in SEEDS])
    return scored


def _pairs(scored: dict[str, Runs]) -> list[tuple[str, str]]:
    """Each method against its parts, and against the baselines."""
    parts = [(name.partition(",")[0], name) for name in scored if "," in name]
    baselines = [(name, other) for other in BASELINES for name in METHODS["lesions"] if name not in BASELINES]
    wanted = [*parts, *baselines, BASELINES[::-1]]
    return [pair for pair in wanted if set(pair) <= set(scored)]


def _pooled(scored: dict[str, Runs], values: dict[str, dict[str, tuple[Cell, ...]]], classes: Classes) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, runs in scored.items():
        by_seed = [class_dice(np.sum([score.confusion for score in run], axis=0))[classes.lesion] for run in runs]
        seeds = ", ".join(f"{dice:.3f}" for dice in by_seed)
        dice, iou = values[name]["pooled/Dice"], values[name]["pooled/IoU"]
        false = values[name].get("pooled/false positives", (None,) * 5)
        rows.append((name, dice[0], seeds, iou[0], dice[-1], false[0], false[-1]))
    columns = ("method", "Dice", "Dice of each seed", "IoU", "images", "false positives", "images without a lesion")
    return Table("The lesion over the set (pooled)", columns, tuple(rows), RULES)


def _per_image(values: dict[str, dict[str, tuple[Cell, ...]]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, each in values.items():
        dice, iou, distance = (each[f"per_image/{measure}"] for measure in ("Dice", "IoU", "HD95 um"))
        rows.append((name, dice[0], iou[0], dice[-1], distance[0], distance[-1]))
    columns = ("method", "Dice", "IoU", "images with the lesion", "HD95 um", "images where both have it")
    return Table("The lesion, means over images that show it (per image)", columns, tuple(rows))


def _variants(data: DataSet, table: Manifest, path: Path, out: Path) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    for method in METHODS[data.task]:
        for variant in variants_of(method, always=False):
            of, against = (
                scores_of(Job(data, method, SEEDS[0], name), path, out) for name in (variant.name, variant.against)
            )
            if of is not None and against is not None:
                rows.append(
                    _variant_row(variant, paired([of], [against], table.classes, (variant.name, _other(variant))))
                )
    compared = ("of the other", "difference", "verdict")
    columns = ("method", "with", "against", "Dice", *compared, "HD95 um", *compared)
    note = "Dice pooled over the set, HD95 per image."
    return [Table(f"One part switched off, seed {SEEDS[0]}", columns, tuple(rows), note)] if rows else []


def _variant_row(variant: Variant, found: dict[str, tuple[Cell, ...]]) -> tuple[Cell, ...]:
    names = (variant.method, variant.name, _other(variant))
    return (*names, *found["pooled/Dice"][:4], *found["per_image/HD95 um"][:4])


def _other(variant: Variant) -> str:
    return variant.against or variant.method
