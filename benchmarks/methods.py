"""The methods against each other: one command trains, predicts, scores and writes the tables; it skips what is done.

    python benchmarks/methods.py [--out DIR] [--jobs 2] [--only TEXT]

Data sets: made-up tissue, made-up lesions, and the WSSS4LUAD and GlaS crops below HISTILL_DATA. Seeds and settings
stand in methods_jobs.py and in recipes/; they were fixed before a test image was looked at, on other made-up sets:
those for tissue over three seeds (set 7), those for lesions with one (sets 11 and 21). Each job computes with one
thread, so that jobs beside each other do not change a byte. Measure no speed beside it.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import methods_lesions
import methods_tissues
from methods_jobs import BASELINES, METHODS, ROOT, DataSet, data_sets, jobs, run, table_of

from histill.core.report import Cell, Report, Table
from histill.core.storage import write_bytes
from histill.report.markdown import to_markdown

RESULTS = ROOT / "benchmarks" / "results"
TABLES = {"tissues": methods_tissues, "lesions": methods_lesions}


def overall(reports: list[tuple[DataSet, Report]]) -> Report:
    """All methods on all sets, each by its task's first measure."""
    methods = [*(method for names in METHODS.values() for method in names if method not in BASELINES), *BASELINES]
    rows: list[tuple[Cell, ...]] = [
        (method, *(made.numbers.get(f"{TABLES[data.task].HEADLINE}/{method}") for data, made in reports))
        for method in methods
    ]
    for method in methods:
        verdicts = [_verdict(f"{method} against cam", TABLES[data.task].HEADLINE, made) for data, made in reports]
        if any(verdicts):
            rows.append((f"{method} against cam", *verdicts))
    measures = {"tissues": "mIoU", "lesions": "Dice of the lesion"}
    columns = ("method", *(f"{data.title}: {measures[data.task]}" for data, _ in reports))
    note = (
        "Pooled over test images and seeds; 95 % intervals over patients. cam is the baseline, supervised the ceiling."
    )
    warnings = tuple(dict.fromkeys(warning for _, made in reports for warning in made.warnings))
    return Report(
        "All methods on all sets", {}, (Table("By the first measure of each", columns, tuple(rows), note),), warnings
    )


def _verdict(title: str, measure: str, made: Report) -> Cell:
    rows = [row for table in made.tables if table.title == title for row in table.rows if row[0] == measure]
    return rows[0][4] if rows else None


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
    reports = [(data, TABLES[data.task].report(data, given.out)) for data in sets]
    for data, made in reports:
        write_bytes(RESULTS / f"methods-{data.name}.json", made.to_json().encode())
    pages = [to_markdown(made) for made in (overall(reports), *(made for _, made in reports))]
    write_bytes(RESULTS / "methods.md", "\n".join(pages).encode())
    print(f"tables: {RESULTS / 'methods.md'}")


if __name__ == "__main__":
    main()
