"""The whole story on made-up data in minutes: images, training on image labels, masks, scores, one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histill.cli.console import Console, parse
from histill.core.config import resolve
from histill.core.manifest import Manifest, read_manifest
from histill.core.storage import write_bytes

if TYPE_CHECKING:
    from histill.data.predicted import Predictions

METHODS = ("mlps", "cam")
SIZE = 112
MPP = 1.0
PATCHES = {"train": 400, "val": 80, "test": 160}
SCHEDULE = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "head_factor": 1.0, "warmup": 0.1}
SETTINGS: dict[str, Any] = {
    "classifier": {"encoder": "resnet10t", "weights": "none"},
    "classify": {"epochs": 11, **SCHEDULE},
    "classify_augmentation": {"turn": True},
    "segmenter": {"encoder": "resnet10t", "weights": "classifier", "channels": 64, "separable": True},
    "segment": {"epochs": 5, **SCHEDULE},
    "segment_augmentation": {"turn": True, "blur": 0.0},
    "select": "labels",
}
OF_MLPS = {"map_scale": "each", "patch_size": SIZE}

INTRO = """A classifier learns which tissues an image shows; nobody tells it where they are. What it looked at becomes \
masks, and a second network learns to segment from those. This page shows what came out on images that neither network \
ever saw, beside the truth, which is known because the images are made up.

The networks start from nothing and learn for minutes on a few hundred small images. On real tissue, with a trunk that \
has seen ImageNet and a full schedule, start from docs/methods/mlps.md."""


@dataclass
class Arguments:
    """Make images, train MLPS and the cam baseline on image labels only, segment held-back images, score them.

    Leaves a folder whose index.html shows image, truth, pseudo-masks, masks and numbers. Begun again, it goes on.
    """

    to: Path = Path("demo-out")
    """the folder to make"""
    seed: int = 0
    """of everything"""


def run(given: list[str]) -> int:
    """Tell the story."""
    arguments = parse(Arguments, given, "demo")

    from histill.data.predicted import open_predictions
    from histill.engine.apply import apply
    from histill.engine.run import Machine
    from histill.engine.training import load, train
    from histill.methods import find

    folder, machine, console = arguments.to, Machine(), Console()
    with console.showing():
        console.line("1 of 4: drawing made-up tissue")
        table = read_manifest(_data(folder / "data", arguments.seed, console))
        for step, name in enumerate(METHODS, 2):
            console.line(f"{step} of 4: {name} learns from image labels")
            kind = find(name)
            settings = {**SETTINGS, **(OF_MLPS if name == "mlps" else {})}
            train(
                kind,
                table,
                None,
                folder=folder / name,
                config=resolve(kind.Config, ("the demo", settings)),
                seed=arguments.seed,
                machine=machine,
                listener=console.listen,
            )
            trained = load(folder / name, find)
            predicted = folder / f"{name}-masks"
            apply(trained, table.of_split("test"), predicted, machine=machine, listener=console.listen)
        console.line("4 of 4: scoring")
        folders = {name: open_predictions(folder / f"{name}-masks") for name in METHODS}
        write_bytes(folder / "index.html", _page(folder, table, folders, console).encode())
    print(f"look at: {folder / 'index.html'}")
    return 0


def _data(folder: Path, seed: int, console: Console) -> Path:
    from histill.data.synthetic.dataset import write_tissue

    if (folder / "data.csv").exists():
        return folder / "data.csv"
    return write_tissue(folder, **PATCHES, size=SIZE, mpp=MPP, seed=seed, progress=console.counter("drawing patches"))


def _page(folder: Path, table: Manifest, folders: dict[str, Predictions], console: Console) -> str:
    from histill.cli.pages import picture_sections, pseudo_mask_figures, pseudo_mask_table
    from histill.core.report import Report, Table
    from histill.engine.scoring import score_predictions
    from histill.metrics.summary import compare, summarise
    from histill.pseudo.masks import open_masks
    from histill.report.html import Figure, Section, to_html
    from histill.report.pictures import class_bars

    test = table.of_split("test")
    scores = {
        name: score_predictions(each, test, console.counter(f"scoring {name}")).scores for name, each in folders.items()
    }
    reports = {name: summarise(each, table.classes) for name, each in scores.items()}
    difference = compare([scores["mlps"]], [scores["cam"]], table.classes, names=METHODS)
    verdicts = {row[0]: row for row in difference.tables[0].rows}
    kept = ("pooled/mIoU", "pooled/FwIoU", "pooled/ACC", "per_image/mIoU", "per_image/mDice")
    against = Table(
        "mlps against cam",
        difference.tables[0].columns,
        tuple(verdicts[name] for name in kept),
        difference.tables[0].note,
    )
    bars = {
        name: {each: report.numbers[f"pooled/IoU/{each}"] for each in table.classes.names}
        for name, report in reports.items()
    }
    caption = "Over all held-back images; the lines are 95 % intervals over made-up patients."
    sections = [
        Section(
            "How good the masks are",
            "cam is the plain way: class activation maps as pseudo-masks. One seed, one small set: a demonstration.",
            tables=(against,),
            figures=(Figure("IoU by tissue", caption, class_bars(bars, label="IoU"), wide=False),),
        )
    ]
    pictures = picture_sections(test, folders, scores["mlps"], 2)
    masks = open_masks(folder / "mlps" / "pseudo-masks")
    quality = pseudo_mask_table(folder / "mlps", table, console)
    if masks is not None and quality is not None:
        sections.append(
            Section(
                "What the segmenter learnt from",
                "Three depths of the classifier give three pseudo-masks of each training image.",
                figures=pseudo_mask_figures(masks, table, 4),
                tables=(quality,),
                legend=table.classes,
            )
        )
    own = reports["mlps"]
    report = Report("From image labels to masks", own.numbers, own.tables, table.warnings, own.settings)
    return to_html(report, sections=[*sections, *pictures], intro=INTRO, classes=table.classes)
