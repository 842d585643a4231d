"""What distillation does for detection at low resolution: one command trains, predicts, scores, and writes the tables.

    python benchmarks/mhkd.py [--out DIR] [--jobs 2] [--only TEXT]
    python benchmarks/mhkd.py --costs     (bytes and seconds of a slide at each resolution; run it with nothing beside)

Data sets: made-up kidneys at r = 4, and the renal biopsies below HISTILL_DATA at r = 8, a quarter in size; HuBMAP's
tiles as a check across stain and scanner. What is done is skipped. Seeds and settings stand in mhkd_jobs.py and in
recipes/mhkd-cpu.yaml; they were chosen on made-up kidneys of another seed (11) and on the biopsies' validation images.
What was seen of test images before is told in docs/methods/mhkd.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from methods_jobs import DATA, ROOT, SEEDS
from mhkd_costs import curve_plot, measure_costs
from mhkd_jobs import (
    ALL_SEEDS,
    CURVE,
    ONE_SEED,
    RATIOS,
    TITLES,
    Job,
    data_sets,
    is_done,
    jobs,
    predict_hubmap,
    run,
    table_of,
)
from numpy.typing import NDArray

from histill.core.labels import Classes
from histill.core.manifest import read_manifest
from histill.core.report import Cell, Number, Report, Table
from histill.core.storage import write_bytes
from histill.data.predicted import open_predictions
from histill.engine.box_scoring import score_boxes
from histill.metrics.bootstrap import number, paired, resample
from histill.metrics.detection import average_precision, match, measures
from histill.metrics.objects import Case
from histill.report.markdown import to_markdown

RESULTS = ROOT / "benchmarks" / "results"
MEASURES = ("AP", "AP50", "AP75")
RULES = (
    "AP is the mean over the IoU thresholds .5 to .95. The mean over seeds, each seed's boxes ranked by themselves; "
    "brackets: 95 % interval over patients, the same draws for all seeds. One beats the other if the interval of their "
    "paired difference lies on its side of 0."
)
NAMES = {
    "high": "teacher at high resolution (ceiling)",
    "low": "low resolution alone",
    "start": "what is inherited alone",
    "hybrid": "MHKD",
    "more fields": "MHKD, and 96 fields without boxes",
    "start, more fields": "what is inherited alone, and 96 fields without boxes",
}
Draws = dict[str, NDArray[np.float64]]


def cases_of(job: Job, out: Path, *, hubmap: bool = False) -> list[Case] | None:
    """What a finished run has found in test images, beside what is true; None if it is not finished."""
    if not is_done(job, out):
        return None
    table = read_manifest(table_of("hubmap" if hubmap else job.data, out))
    rows = table if hubmap else table.of_split("test")
    predictions = open_predictions(predict_hubmap(job, out) if hubmap else out / "runs" / job.name / "predictions")
    return list(score_boxes(predictions, rows).cases)


def measured(runs: Iterable[list[Case]], classes: Classes) -> Draws:
    """Each measure and its draws, float64 [1 + draws]: the mean over seeds."""
    found = []
    for cases in runs:
        resampling = resample([case.patient for case in cases])
        matches = [match(case.truth, case.found, len(classes)) for case in cases]
        found.append(measures(average_precision(matches, resampling), classes))
    return {name: np.mean([each[name] for each in found], axis=0) for name in MEASURES}


def all_seeds(data: str, plan: str, ratio: int, seeds: Iterable[int], out: Path) -> list[list[Case]] | None:
    """The cases seed by seed, or None if one is missing."""
    found = [cases_of(Job(data, plan, ratio, seed), out) for seed in seeds]
    done = [each for each in found if each is not None]
    return done if len(done) == len(found) else None


def set_tables(data: str, out: Path) -> list[Table]:
    """The plans on one data set: all seeds, then what is run with one."""
    classes = read_manifest(table_of(data, out)).classes
    tables = []
    every = (*ALL_SEEDS[data], "high")
    for seeds, plans in ((SEEDS, every), (SEEDS[:1], (*every, *ONE_SEED[data]))):
        runs = {plan: all_seeds(data, plan, 1 if plan == "high" else RATIOS[data], seeds, out) for plan in plans}
        finished = {plan: each for plan, each in runs.items() if each is not None}
        if not {"low", "hybrid"} <= set(finished):
            continue
        draws = {plan: measured(each, classes) for plan, each in finished.items()}
        n = len(finished["low"][0])
        rows: list[tuple[Cell, ...]] = []
        for plan, each in draws.items():
            against = paired(each["AP"], draws["low"]["AP"], n, names=(plan, "low"))
            other = () if plan == "low" else (against.number, against.verdict)
            values = tuple(number(each[name], n) for name in MEASURES)
            rows.append((NAMES.get(plan, plan), *values, *(other or (None, ""))))
        boxes = sum(len(case.truth) for case in finished["low"][0])
        which = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
        title = f"{TITLES[data]}, r = {RATIOS[data]}, {which}"
        note = f"{n} test images, {boxes} boxes. {RULES}"
        tables.append(Table(title, ("", *MEASURES, "AP against low", "verdict"), tuple(rows), note))
    return tables


def by_seed(data: str, out: Path) -> list[Table]:
    """AP of every seed."""
    classes, rows = read_manifest(table_of(data, out)).classes, []
    for plan in (*ALL_SEEDS[data], "high"):
        found = [cases_of(Job(data, plan, 1 if plan == "high" else RATIOS[data], seed), out) for seed in SEEDS]
        values = ["" if each is None else f"{measured([each], classes)['AP'][0]:.3f}" for each in found]
        rows.append((NAMES.get(plan, plan), *values))
    return [Table(f"AP of each seed, {TITLES[data]}", ("", *(f"seed {seed}" for seed in SEEDS)), tuple(rows))]


def curve(data: str, out: Path) -> list[Table]:
    """AP against resolution, first seed; and what a made-up slide costs there."""
    classes = read_manifest(table_of(data, out)).classes
    noted = RESULTS / "mhkd_costs.json"
    costs = json.loads(noted.read_bytes()) if data == "kidneys" and noted.exists() else {}
    rows: list[tuple[Cell, ...]] = []
    lines: dict[str, dict[int, Number]] = {}
    for ratio in (1, *CURVE[data]):
        draws: dict[str, NDArray[np.float64]] = {}
        for plan in ("high",) if ratio == 1 else ("low", "hybrid"):
            found = cases_of(Job(data, plan, ratio, SEEDS[0]), out)
            if found is not None:
                n, draws[plan] = len(found), measured([found], classes)["AP"]
                lines.setdefault(plan, {})[ratio] = number(draws[plan], n)
        cells: list[Cell] = [lines.get(plan, {}).get(ratio) for plan in ("high" if ratio == 1 else "low", "hybrid")]
        both = "low" in draws and "hybrid" in draws
        cells.append(paired(draws["hybrid"], draws["low"], n, names=("hybrid", "low")).number if both else None)
        if costs:
            cost = costs["slide"][str(ratio)]
            cells += [f"{cost['bytes'] / 1e6:.2f} MB", f"{cost['seconds']:.1f} s"]
        rows.append((f"{ratio}", *cells))
    if not lines:
        return []
    write_bytes(out / f"curve-{data}.png", curve_plot(lines))
    note = "First seed, test images. Row 1: the teacher, at high resolution."
    columns = ["r", "AP alone", "AP with distillation", "difference"]
    if costs:
        columns += ["bytes of a slide", "seconds of a slide"]
        note += (
            f" Bytes and seconds: a made-up slide of {costs['side']} px at {costs['mpp']} um/px, as a file with a "
            "pyramid, and one prediction of it (reading, tissue, network and files; one thread)."
        )
    return [Table(f"Average precision against resolution, {TITLES[data]}", tuple(columns), tuple(rows), note)]


def across(out: Path) -> list[Table]:
    """The students on HuBMAP's tiles: another stain, another scanner, none of it learnt from."""
    if not (DATA / "hubmap_kidney_lowmag").is_dir():
        return []
    classes, rows = read_manifest(table_of("hubmap", out)).classes, []
    for data, ratio in RATIOS.items():
        for plan in ("low", "hybrid"):
            found = [cases_of(Job(data, plan, ratio, seed), out, hubmap=True) for seed in SEEDS]
            done = [each for each in found if each is not None]
            if len(done) == len(SEEDS):
                values = measured(done, classes)
                # Six tiles of one slide: there is no interval.
                rows.append((f"{TITLES[data]}, r = {ratio}", NAMES[plan], *(f"{values[m][0]:.3f}" for m in MEASURES)))
    note = (
        "6 tiles of one slide (PAS, about 8 um/px), 27 boxes: too little for an interval. The made-up kidneys' "
        "students look at 8 um/px too; at which spacing the biopsies' look nobody knows."
    )
    title = "HuBMAP kidney tiles, by students that have never seen the like, means over seeds"
    return [Table(title, ("learnt from", "", *MEASURES), tuple(rows), note)] if rows else []


def main() -> None:
    """Do what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "mhkd")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only runs whose name holds this text")
    parser.add_argument("--costs", action="store_true", help="measure what a slide costs, nothing else beside")
    given = parser.parse_args()
    sets = data_sets()
    if given.costs:
        measure_costs(given.out, RESULTS / "mhkd_costs.json")
    else:
        for name in (*sets, "fields"):
            table_of(name, given.out)
        todo = [job for job in jobs(sets) if given.only in job.name]
        # Students wait for their teachers.
        for plans in (True, False):
            with ThreadPoolExecutor(given.jobs) as pool:
                part = [job for job in todo if (job.plan == "high") == plans]
                list(pool.map(lambda job: run(job, given.out), part))
    makers = (set_tables, by_seed, curve)
    tables = [table for name in sets for make in makers for table in make(name, given.out)]
    tables += across(given.out)
    made = Report("Detection at low resolution", {}, tuple(tables), (), {"seeds": list(SEEDS), "r": RATIOS})
    write_bytes(RESULTS / "mhkd.json", made.to_json().encode())
    write_bytes(RESULTS / "mhkd.md", to_markdown(made).encode())
    print(f"tables: {RESULTS / 'mhkd.md'}")


if __name__ == "__main__":
    main()
