"""The whole story on made-up data in minutes: slides, patches with labels, training, slides segmented, one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histill.cli.console import Console, parse
from histill.core.config import resolve
from histill.core.manifest import Manifest, read_manifest
from histill.core.storage import write_bytes

if TYPE_CHECKING:
    from histill.core.report import Table
    from histill.data.predicted import Predictions

METHODS = ("mlps", "cam")
SIZE = 112
MPP = 1.0
SLIDES = (10, 3584, 3072)
"""How many, width and height in px: six to learn from, two held back; the two of split val are not needed."""
PATCHES_A_SLIDE = 67
SCHEDULE = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "head_factor": 1.0, "warmup": 0.1}
SETTINGS: dict[str, Any] = {
    "classifier": {"encoder": "resnet10t", "weights": "none"},
    "classify": {"epochs": 11, **SCHEDULE},
    "classify_augmentation": {"turn": True},
    "segmenter": {"encoder": "resnet10t", "weights": "classifier", "channels": 64, "separable": True},
    "segment": {"epochs": 5, **SCHEDULE},
    "segment_augmentation": {"turn": True, "blur": 0.0},
    "select": "last",
}
OF_MLPS = {
    "map_scale": "each",
    "patch_size": SIZE,
    "attention_warmup": 7,
    "drop_decay": 0.9,
    "normalise_attention": True,
}

INTRO = """Slides are made up, and patches are cut from some of them. A classifier learns which tissues a patch \
shows; nobody tells it where they are. What it looked at becomes masks, and a second network learns to segment from \
those. Then it segments whole slides that it never saw. The truth is known, because the slides are made up.

The networks start from nothing and learn for minutes on a few hundred small patches. On real tissue, with a trunk \
that has seen ImageNet and a full schedule, start from docs/methods/mlps.md and docs/slides.md."""


@dataclass
class Arguments:
    """Make slides, cut patches, train MLPS and cam on image labels only, segment and score held-back slides.

    Leaves a folder whose index.html shows slides, truth, pseudo-masks, masks and numbers, and the files that QuPath
    opens. Begun again, it goes on.
    """

    to: Path = Path("demo-out")
    """the folder to make"""
    seed: int = 0
    """of everything"""


def run(given: list[str]) -> int:
    """Tell the story."""
    arguments = parse(Arguments, given, "demo")

    from histill.data.predicted import open_predictions
    from histill.engine.run import Machine
    from histill.engine.slides import apply_to_slides
    from histill.engine.training import load, train
    from histill.methods import find

    folder, machine, console = arguments.to, Machine(), Console()
    with console.showing():
        console.line("1 of 4: drawing made-up slides, cutting patches")
        slides, patches = (read_manifest(path) for path in _data(folder, arguments.seed, console))
        held_back = slides.of_split("test")
        for step, name in enumerate(METHODS, 2):
            console.line(f"{step} of 4: {name} learns from the patches' labels, then segments the held-back slides")
            kind = find(name)
            settings = {**SETTINGS, **(OF_MLPS if name == "mlps" else {})}
            train(
                kind,
                patches,
                None,
                folder=folder / name,
                config=resolve(kind.Config, ("the demo", settings)),
                seed=arguments.seed,
                machine=machine,
                listener=console.listen,
            )
            trained = load(folder / name, find)
            apply_to_slides(trained, held_back, _segmented(folder, name), machine=machine, listener=console.listen)
        console.line("4 of 4: scoring")
        folders = {name: open_predictions(_segmented(folder, name)) for name in METHODS}
        write_bytes(folder / "index.html", _page(folder, held_back, patches, folders, console).encode())
    print(f"look at: {folder / 'index.html'}")
    print(f"QuPath:  open {held_back.samples[0].path}, drag onto it {_segmented(folder, 'mlps') / 'geojson'}/*.geojson")
    return 0


def _segmented(folder: Path, method: str) -> Path:
    return folder / f"{method}-slides"


def _data(folder: Path, seed: int, console: Console) -> tuple[Path, Path]:
    """Tables of slides and of patches."""
    from histill.data.synthetic.cut import cut_patches
    from histill.data.synthetic.slides import write_slides

    slides, patches = folder / "slides" / "slides.csv", folder / "patches" / "data.csv"
    if not slides.exists():
        count, width, height = SLIDES
        write_slides(
            slides.parent,
            count=count,
            width=width,
            height=height,
            mpp=MPP,
            seed=seed,
            progress=console.counter("drawing slides"),
        )
    if not patches.exists():
        cut_patches(slides, patches.parent, per_slide=PATCHES_A_SLIDE, size=SIZE, seed=seed)
    return slides, patches


def _page(
    folder: Path, held_back: Manifest, patches: Manifest, folders: dict[str, Predictions], console: Console
) -> str:
    from histill.cli.pages import pseudo_mask_figures, pseudo_mask_table, slide_sections
    from histill.core.report import Report, Table
    from histill.engine.slide_scoring import score_slides
    from histill.metrics.summary import compare, summarise
    from histill.pseudo.masks import open_masks
    from histill.report.html import Figure, Section, to_html
    from histill.report.pictures import class_bars

    classes = held_back.classes
    scores = {
        name: score_slides(each, held_back, None, console.counter(f"scoring {name}")).scores
        for name, each in folders.items()
    }
    reports = {name: summarise(each, classes) for name, each in scores.items()}
    difference = compare([scores["mlps"]], [scores["cam"]], classes, names=METHODS)
    verdicts = {row[0]: row for row in difference.tables[0].rows}
    kept = ("pooled/mIoU", "pooled/FwIoU", "pooled/ACC", "per_image/mIoU", "per_image/mDice")
    against = Table(
        "mlps against cam",
        difference.tables[0].columns,
        tuple(verdicts[name] for name in kept),
        difference.tables[0].note,
    )
    bars = {
        name: {each: report.numbers[f"pooled/IoU/{each}"] for each in classes.names} for name, report in reports.items()
    }
    caption = "Over the held-back slides; the lines are 95 % intervals over made-up patients, of whom there are few."
    sections = [
        *slide_sections(held_back, folders, scores["mlps"], 1),
        Section(
            "How good the masks are",
            "cam is the plain way: class activation maps as pseudo-masks. One seed, two slides: a demonstration.",
            tables=(against, _files(folder, held_back, folders)),
            figures=(Figure("IoU by tissue", caption, class_bars(bars, label="IoU"), wide=False),),
        ),
    ]
    masks = open_masks(folder / "mlps" / "pseudo-masks")
    quality = pseudo_mask_table(folder / "mlps", patches, console)
    if masks is not None and quality is not None:
        sections.append(
            Section(
                "What the segmenter learnt from",
                "Three depths of the classifier give three pseudo-masks of each training patch.",
                figures=pseudo_mask_figures(masks, patches, 4),
                tables=(quality,),
                legend=classes,
            )
        )
    own = reports["mlps"]
    report = Report("From image labels to masks of slides", own.numbers, own.tables, held_back.warnings, own.settings)
    return to_html(report, sections=sections, intro=INTRO, classes=classes)


def _files(folder: Path, held_back: Manifest, folders: dict[str, Predictions]) -> Table:
    """What was written of the held-back slides, to be opened elsewhere."""
    from histill.core.report import Cell, Table

    rows: list[tuple[Cell, ...]] = []
    for name, predictions in folders.items():
        for sample in held_back.samples:
            record = predictions.record_of(sample)
            files = sorted(record.outputs) if record else []
            rows += [(name, sample.id, (predictions.folder / file).relative_to(folder).as_posix()) for file in files]
    note = "Below this page's folder. masks: label maps (OME-TIFF); geojson: outlines with areas. Both open in QuPath."
    return Table("Files", ("method", "slide", "file"), tuple(rows), note)
