"""Score predictions against true masks, with intervals, and against another method's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse
from histill.core.errors import Exit, HistillError
from histill.core.manifest import read_manifest
from histill.core.storage import write_bytes


@dataclass
class Arguments:
    """Score predictions: IoU, Dice, mIoU, FwIoU, accuracy and HD95, with 95 % intervals over patients.

    Writes report.json, report.md and report.html, one page with the best, median and worst images.
    """

    predictions: Positional[Annotated[Path, arg(metavar="PREDICTIONS")]]
    """the folder that histill predict wrote"""
    table: Positional[Annotated[Path, arg(metavar="CSV")]]
    """the table with the true masks"""
    to: Path
    """the folder for the report"""
    against: Path | None = None
    """another method's predictions of the same images: the paired difference, and whether one beats the other"""
    run: Path | None = None
    """the run behind the predictions: its pseudo-masks are scored too, tap by tap, where training rows have masks"""
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """which of the predicted rows are scored; auto: those of split test where there are any, else all"""
    images: int = 3
    """how many best, median and worst images are shown"""


def run(given: list[str]) -> int:
    """Evaluate."""
    arguments = parse(Arguments, given, "evaluate")
    at_least(0, images=arguments.images)

    from histill.cli.pages import epoch_table, picture_sections, pseudo_mask_table
    from histill.data.predicted import open_predictions
    from histill.engine.scoring import rows_of, score_predictions
    from histill.metrics.summary import compare, summarise
    from histill.report.html import Section, to_html
    from histill.report.markdown import to_markdown

    table = read_manifest(arguments.table)
    folders = [open_predictions(folder) for folder in (arguments.predictions, arguments.against) if folder]
    names = [folder.method for folder in folders]
    if len(set(names)) < len(names):
        names = [folder.folder.name for folder in folders]
    rows = rows_of(folders, table)
    split = arguments.split
    if split == "auto":
        split = "test" if rows.of_split("test").samples else "all"
    if split != "all":
        rows = rows.of_split(split)
    if not rows.samples:
        raise HistillError(
            f"no predicted row is of split {split}",
            code=Exit.USAGE,
            subject=str(arguments.table),
            mend="Predict that split first, or choose another --split",
        )
    learnt = sum(sample.split == "train" for sample in rows.samples)
    seen = (f"{learnt} of the {len(rows.samples)} images scored are training images",) if learnt else ()
    console = Console()
    with console.showing():
        scored = [
            score_predictions(folder, rows, console.counter(f"scoring {name}"))
            for name, folder in zip(names, folders, strict=True)
        ]
        report = summarise(
            scored[0].scores,
            table.classes,
            title=f"{names[0]} on {arguments.table.stem}",
            quarantined=scored[0].quarantined,
            warnings=tuple(dict.fromkeys([*seen, *folders[0].warnings, *table.warnings])),
            settings={
                "method": folders[0].method,
                **folders[0].about,
                "model": folders[0].model,
                "table": table.digest,
                "split": split,
            },
        )
        sections: list[Section] = []
        if len(folders) == 2:
            both = set.intersection(*({score.id for score in each.scores} for each in scored))
            mine, theirs = ([[score for score in each.scores if score.id in both]] for each in scored)
            difference = compare(mine, theirs, table.classes, names=(names[0], names[1]))
            sections.append(Section(difference.title, tables=difference.tables))
            report = replace(report, numbers={**report.numbers, **difference.numbers})
        if arguments.run is not None:
            masks = pseudo_mask_table(arguments.run, table, console)
            found = (*((masks,) if masks else ()), epoch_table(arguments.run))
            sections.append(Section("How it was learnt", tables=found))
        sections += picture_sections(rows, dict(zip(names, folders, strict=True)), scored[0].scores, arguments.images)
    page = to_html(report, sections=sections, classes=table.classes)
    report = replace(report, tables=(*report.tables, *(each for section in sections for each in section.tables)))
    write_bytes(arguments.to / "report.json", report.to_json().encode())
    write_bytes(arguments.to / "report.md", to_markdown(report).encode())
    write_bytes(arguments.to / "report.html", page.encode())
    pooled, each = report.numbers["pooled/mIoU"], report.numbers["per_image/mIoU"]
    print(f"{len(rows.samples)} images ({split}): mIoU over the set {pooled}, per image {each}")
    print(f"report: {arguments.to / 'report.html'}")
    return int(Exit.QUARANTINED if scored[0].quarantined else Exit.DONE)
