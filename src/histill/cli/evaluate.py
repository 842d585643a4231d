"""Score predictions of images, slides or bags against what is true, with intervals, and against another method's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse, spacing
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample, read_manifest
from histill.core.record import EMPTY
from histill.core.storage import write_bytes

if TYPE_CHECKING:
    from histill.core.report import Report
    from histill.data.predicted import Predictions
    from histill.engine.scoring import Scored
    from histill.metrics.summary import ImageScore


@dataclass
class Arguments:
    """Score predictions: IoU, Dice, mIoU, FwIoU, accuracy and HD95, with 95 % intervals over patients.

    Of objects: AP.5:.95, AP50, AP75, AP by size, sensitivity at false positives (FROC), precision and recall. Of bags:
    AUC, balanced accuracy, macro F1 and accuracy. Writes report.json, report.md and report.html, one page, with the
    best, median and worst images.
    """

    predictions: Positional[Annotated[Path, arg(metavar="PREDICTIONS")]]
    """the folder that histill predict wrote"""
    table: Positional[Annotated[Path, arg(metavar="CSV")]]
    """the table with the true masks or boxes; of slides also outlines: GeoJSON, ASAP XML"""
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
    at: float | None = None
    """slides: um/px at which pixels are compared; left out, that of the predictions"""


def run(given: list[str]) -> int:
    """Evaluate."""
    arguments = parse(Arguments, given, "evaluate")
    at_least(0, images=arguments.images)
    spacing(at=arguments.at)

    from histill.cli.pages import epoch_table, picture_sections, pseudo_mask_table, slide_sections
    from histill.data.predicted import open_predictions
    from histill.engine.scoring import rows_of
    from histill.metrics.summary import compare, summarise
    from histill.report.html import Section, to_html

    table = read_manifest(arguments.table)
    folders = [open_predictions(folder) for folder in (arguments.predictions, arguments.against) if folder]
    kind = folders[0].kind
    if folders[-1].kind != kind:
        raise HistillError(
            f"it holds {folders[-1].kind}, the other {kind}",
            code=Exit.USAGE,
            subject=str(folders[-1].folder),
            mend="Compare predictions of the same files",
        )
    names = _names(folders)
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
    seen = [f"{learnt} of the {len(rows.samples)} {kind} scored are training {kind}"] if learnt else []
    blank = [sample.id for sample in rows.samples if _is_empty(folders[0], sample)]
    seen += [f"no tissue was found on {', '.join(blank)}: all that is true there counts as missed"] if blank else []
    settings = {
        "method": folders[0].method,
        **folders[0].about,
        "model": folders[0].model,
        "table": table.digest,
        "split": split,
    }
    if kind == "bags":
        return _bags(arguments, folders, names, rows, (*seen, *folders[0].warnings, *table.warnings), settings)
    if any(folder.about.get("task") == "detect" for folder in folders):
        return _objects(arguments, folders, names, rows, (*seen, *folders[0].warnings, *table.warnings), settings)
    console = Console()
    with console.showing():
        scored = [
            _scored(folder, rows, arguments.at, console.counter(f"scoring {name}"))
            for name, folder in zip(names, folders, strict=True)
        ]
        report = summarise(
            scored[0].scores,
            table.classes,
            title=f"{names[0]} on {arguments.table.stem}",
            quarantined=scored[0].quarantined,
            warnings=tuple(dict.fromkeys([*seen, *folders[0].warnings, *table.warnings])),
            settings={**settings, **({"um/px": _spacings(scored[0].scores)} if kind == "slides" else {})},
        )
        sections: list[Section] = []
        if len(folders) == 2:
            _require_one_spacing(scored)
            ids = [{score.id for score in each.scores} for each in scored]
            both, alone = ids[0] & ids[1], len(ids[0] ^ ids[1])
            mine, theirs = ([[score for score in each.scores if score.id in both]] for each in scored)
            difference = compare(mine, theirs, table.classes, names=(names[0], names[1]))
            sections.append(Section(difference.title, tables=difference.tables))
            left_out = (f"{alone} {kind} were put aside by one of the two and are not compared",) if alone else ()
            numbers, warnings = {**report.numbers, **difference.numbers}, (*report.warnings, *left_out)
            report = replace(report, numbers=numbers, warnings=warnings)
        if arguments.run is not None:
            masks = pseudo_mask_table(arguments.run, table, console)
            found = (*((masks,) if masks else ()), epoch_table(arguments.run))
            sections.append(Section("How it was learnt", tables=found))
        pictures = slide_sections if kind == "slides" else picture_sections
        sections += pictures(rows, dict(zip(names, folders, strict=True)), scored[0].scores, arguments.images)
    page = to_html(report, sections=sections, classes=table.classes)
    report = replace(report, tables=(*report.tables, *(each for section in sections for each in section.tables)))
    _write(arguments.to, report, page)
    pooled, each = report.numbers["pooled/mIoU"], report.numbers["per_image/mIoU"]
    print(f"{len(rows.samples)} {kind} ({split}): mIoU over the set {pooled}, per image {each}")
    print(f"report: {arguments.to / 'report.html'}")
    return int(Exit.QUARANTINED if scored[0].quarantined else Exit.DONE)


def _bags(
    arguments: Arguments,
    folders: Sequence[Predictions],
    names: Sequence[str],
    rows: Manifest,
    warnings: Sequence[str],
    settings: Mapping[str, object],
) -> int:
    from histill.engine.bag_scoring import score_bags
    from histill.metrics.slide_labels import report_slides
    from histill.report.html import to_html

    found = [score_bags(folder, rows) for folder in folders]
    both = set(found[0].ids) & set(found[-1].ids)
    mine, *others = (each.of(both) for each in found)
    report = report_slides(
        mine.truth,
        mine.probabilities,
        mine.patients,
        rows.classes,
        title=f"{names[0]} on {arguments.table.stem}",
        against=(names[0], names[1], others[0].probabilities) if others else None,
        quarantined=len(rows.samples) - len(both),
        warnings=tuple(dict.fromkeys(warnings)),
        settings=settings,
    )
    _write(arguments.to, report, to_html(report, classes=rows.classes))
    print(f"{len(both)} bags ({settings['split']}): AUC {report.numbers['slides/AUC']}")
    print(f"report: {arguments.to / 'report.html'}")
    return int(Exit.QUARANTINED if len(both) < len(rows.samples) else Exit.DONE)


def _objects(
    arguments: Arguments,
    folders: Sequence[Predictions],
    names: Sequence[str],
    rows: Manifest,
    warnings: Sequence[str],
    settings: Mapping[str, object],
) -> int:
    from histill.cli.pages import box_sections, epoch_table
    from histill.engine.box_scoring import require_boxes, score_boxes
    from histill.metrics.detection import MOST
    from histill.metrics.objects import report_objects
    from histill.report.html import Section, to_html

    require_boxes(folders)
    if arguments.at is not None:
        what, mend = "boxes are compared where they lie", "Leave it out"
        raise HistillError(what, code=Exit.USAGE, subject="--at", mend=mend)
    slides, score = folders[0].kind == "slides", float(folders[0].about["score"])
    found = [score_boxes(folder, rows) for folder in folders]
    both = {case.id for case in found[0].cases} & {case.id for case in found[-1].cases}
    mine, *others = (each.of(both) for each in found)
    report = report_objects(
        mine.cases,
        rows.classes,
        title=f"{names[0]} on {arguments.table.stem}",
        score=score,
        unit="mm2" if slides else "image",
        most=None if slides else MOST,
        against=(names[0], names[1], others[0].cases) if others else None,
        quarantined=len(rows.samples) - len(both),
        warnings=tuple(dict.fromkeys(warnings)),
        settings=settings,
    )
    sections = [] if slides else box_sections(rows, mine.cases, score, arguments.images)
    if arguments.run is not None:
        sections.insert(0, Section("How it was learnt", tables=(epoch_table(arguments.run),)))
    page = to_html(report, sections=sections, classes=rows.classes)
    report = replace(report, tables=(*report.tables, *(each for section in sections for each in section.tables)))
    _write(arguments.to, report, page)
    ap, ap50 = report.numbers["objects/AP"], report.numbers["objects/AP50"]
    print(f"{len(both)} {folders[0].kind} ({settings['split']}): AP {ap}, AP50 {ap50}")
    print(f"report: {arguments.to / 'report.html'}")
    return int(Exit.QUARANTINED if len(both) < len(rows.samples) else Exit.DONE)


def _write(folder: Path, report: Report, page: str) -> None:
    from histill.report.markdown import to_markdown

    write_bytes(folder / "report.json", report.to_json().encode())
    write_bytes(folder / "report.md", to_markdown(report).encode())
    write_bytes(folder / "report.html", page.encode())


def _scored(folder: Predictions, rows: Manifest, at: float | None, progress: Callable[[int, int], None]) -> Scored:
    from histill.engine.scoring import score_predictions
    from histill.engine.slide_scoring import score_slides

    if folder.kind == "slides":
        return score_slides(folder, rows, at, progress)
    if at is not None:
        raise HistillError(
            "images are compared pixel by pixel, at their own spacing",
            code=Exit.USAGE,
            subject="--at",
            mend="Leave it out",
        )
    return score_predictions(folder, rows, progress)


def _names(folders: Sequence[Predictions]) -> list[str]:
    """What tells folders of predictions apart, as short as may be."""
    methods, names = [folder.method for folder in folders], [folder.folder.name for folder in folders]
    paths = [str(folder.folder) for folder in folders]
    return next((each for each in (methods, names) if len(set(each)) == len(each)), paths)


def _is_empty(folder: Predictions, sample: Sample) -> bool:
    record = folder.record_of(sample)
    return record is not None and record.status == EMPTY


def _require_one_spacing(scored: Sequence[Scored]) -> None:
    """Refuse to compare what was not compared with the truth alike."""
    mine, theirs = ({score.id: score.mpp for score in each.scores} for each in scored)
    if any(theirs.get(name, mpp) != mpp for name, mpp in mine.items()):
        raise HistillError(
            "the two were predicted at different spacings",
            code=Exit.USAGE,
            subject="--against",
            mend="Say at which both are compared: --at 0.5",
        )


def _spacings(scores: Sequence[ImageScore]) -> str:
    found = sorted({score.mpp for score in scores if score.mpp is not None})
    return ", ".join(f"{mpp:g}" for mpp in found)
