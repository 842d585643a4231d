"""Make a table of a data set that is published, of your own CSV, or of slides with outlines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from histill.cli.console import Console, is_help, parse, share
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest, write_manifest

OUTLINES = """\
outlines: slides belong to files of outlines by their names: a.svs to a.geojson or a.xml. They become
  slides   a row a slide: its outlines are the mask, its labels name the classes that occur
  regions  an image for each outline, labelled with its class and others that cover --least of it
  patches  tiles of one size over what is outlined, and with --background over all tissue, labelled with what
           covers --least of them, or with the background where there is nothing else at all
What labels do not name, a method takes for absent. So two kinds of patches are left out: those of which less than
--known is known, and those with some of a class, but too little for its name, and nothing else.
Images and masks lie beside the table in a folder of its name. An import that was stopped goes on where it was.

examples:
  your own table of images
    histill import plain my.csv --classes tumour,stroma --to data.csv
  slides and what was drawn on them in QuPath, as the truth that predictions of slides are scored against
    histill import outlines slides --outlines exported --to slides.csv
  Camelyon16: patches of tumour and normal tissue at 0.5 um/px, of each at most 500 a slide
    histill import outlines images --outlines annotations --background normal --without-outlines background \\
      --cut patches --at 0.5 --most 500 --to camelyon.csv
"""


@dataclass
class OutlineArguments:
    """Flags of outlines."""

    outlines: Path | None = None
    """GeoJSON of QuPath or XML of ASAP: a file, or a folder of them; left out, they lie beside the slides"""
    rename: str = ""
    """what their classes, or those of boxes, stand for: 'Immune cells=stroma, Necrosis=ignore, none=tumour' (none:
    without a class)"""
    without_outlines: Literal["unknown", "background", "skip"] = "unknown"
    """a slide without outlines: nothing is known of it; all is background, as in Camelyon16; leave it out"""
    split: Literal["none", "train", "val", "test"] = "none"
    """mark all rows so; of boxes, those whose file or folder does not say it"""
    cut: Literal["slides", "regions", "patches"] = "slides"
    """what becomes a row: see above"""
    at: float = 0.5
    """um/px of regions and patches"""
    tile: int = 224
    """side of a patch in px"""
    overlap: str = "0%"
    """of neighbouring patches"""
    least: str = "5%"
    """labels name a class that covers so much of a region or patch"""
    known: str = "75%"
    """of a patch that is background or inside outlines, at least"""
    least_tissue: str = "10%"
    """of a patch that is background alone, at least"""
    largest: int = 1024
    """longest side of a region in px; larger ones are cut into parts"""
    most: int = 0
    """regions or patches of a slide with the same labels, drawn at random; 0: all of them"""


@dataclass
class CohortArguments:
    """Flags of a cohort: slides as bags of features."""

    bags: Path | None = None
    """the folder of the feature files, <slide>.h5"""
    label: str = ""
    """the column of labels, where it goes by none of the known names"""
    patients: Path | None = None
    """STAMP's slide table, which says whose each slide is"""
    splits: Path | None = None
    """CLAM's splits_0.csv; it counts more than a column"""
    official: bool = False
    """a patient may stand in two splits, as a published split has it; every report says so"""
    skip_missing: bool = False
    """leave slides without a feature file out, and count them"""


@dataclass
class Arguments:
    """Make a table (CSV, with a YAML card beside it) that train, predict and evaluate read.

    Every file is looked into first; all faults come in one report, each with its line or its file.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """what is imported: see the list above"""
    origin: Positional[Annotated[Path, arg(metavar="FOLDER-OR-CSV")]]
    """the data set's folder, your CSV, or your slides"""
    to: Path
    """the table to write, such as data.csv"""
    classes: str = ""
    """plain, outlines, pos_neg: names in label order, comma between; left out, those that labels or outlines name"""
    background: str = ""
    """plain, outlines, pos_neg: the class that labels name only where there is no other; what no outline covers"""
    mask_values: str = ""
    """plain, and the sets as published: what the masks' pixel values mean, such as 0=stroma,255=gland,3=ignore"""
    mpp: float | None = None
    """plain, outlines, pos_neg, boxes: um/px of rows or slides (largest level) that do not say it"""
    lesions: bool = False
    """glas: glands against the rest, for methods that learn from lesion labels; crops with few glands are left out"""
    more: Annotated[OmitArgPrefixes[OutlineArguments], arg(name="outlines")] = field(default_factory=OutlineArguments)
    cohort: Annotated[OmitArgPrefixes[CohortArguments], arg(name="cohort")] = field(default_factory=CohortArguments)


COMMON = ("classes", "background", "mask_values", "mpp", "lesions")
MEANT = {
    "slides": ("outlines", "rename", "without_outlines", "split", "cut"),
    "regions": ("at", "least", "largest", "most"),
    "patches": ("at", "tile", "overlap", "least", "known", "least_tissue", "most"),
}
"""Which of the outlines' flags mean something, by what is cut; the first do always."""


def run(given: list[str]) -> int:
    """Import."""
    from histill.data.images import require_sound_files
    from histill.data.sources.listing import reader, sources

    if is_help(given):
        print("sources:\n" + "\n".join(f"  {name:<18} {line}" for name, line in sources().items()) + "\n")
        print(OUTLINES)
    arguments = parse(Arguments, given, "import")
    if arguments.to.suffix != ".csv":
        raise HistillError("the table's name must end in .csv", code=Exit.USAGE, subject=str(arguments.to))
    if arguments.to.resolve() == arguments.origin.resolve():
        raise HistillError(
            "this would write over the table it reads",
            code=Exit.USAGE,
            subject=str(arguments.to),
            mend="Choose a new name",
        )
    read = reader(arguments.source)
    _check_flags(arguments, read)
    console = Console()
    with console.showing():
        imported = read(arguments.origin, **_options(arguments, read, console))
        if arguments.source != "outlines" and not imported.looked_into:
            # The lines are those of the table to come; it is written only if every file is sound. Slides and outlines
            # have been looked at, and what was cut of them has just been written.
            rows = tuple(replace(sample, line=line) for line, sample in enumerate(imported.samples, 2))
            coming = Manifest(rows, imported.card, arguments.to, digest="")
            require_sound_files(coming, console.counter("opening images"))
    write_manifest(arguments.to, imported.samples, imported.card)
    table = read_manifest(arguments.to)
    for note in (*imported.notes, *table.warnings):
        console.line(f"note: {note}")
    splits = {split: len(table.of_split(split).samples) for split in ("train", "val", "test", "")}
    counts = ", ".join(f"{count} {split or 'without a split'}" for split, count in splits.items() if count)
    print(f"{arguments.to}: {len(table.samples)} rows ({counts}); classes {', '.join(table.classes.names)}")
    return 0


def _check_flags(arguments: Arguments, read: Callable[..., Any]) -> None:
    """Refuse flags that mean nothing to the source."""
    source, more = arguments.source, arguments.more
    common = [name for name in COMMON if getattr(arguments, name)] + (["mpp"] if arguments.mpp == 0 else [])
    special = [each.name for each in fields(more) if getattr(more, each.name) != each.default]
    of_bags = [each.name for each in fields(arguments.cohort) if getattr(arguments.cohort, each.name) != each.default]
    wrong, what = [name for name in common if name not in signature(read).parameters], "known of this data set"
    if source == "outlines":
        wrong += [name for name in special if name not in (*MEANT["slides"], *MEANT[more.cut])]
        what = f"nothing to do with outlines cut into {more.cut}"
    elif not wrong:
        wrong, what = [name for name in special if name not in signature(read).parameters], "for slides with outlines"
    if not wrong and source != "cohort":
        wrong, what = of_bags, "for a cohort of bags"
    if wrong:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise HistillError(what, code=Exit.USAGE, subject=f"{source} {flags}", mend="Leave these flags out")


def _options(arguments: Arguments, read: Callable[..., Any], console: Console) -> dict[str, Any]:
    """What the source's reader is told, of what it asks for."""
    more = arguments.more
    options = {
        "rename": _pairs(more.rename, "--rename", "'Immune cells=stroma'"),
        "split": "" if more.split == "none" else more.split,
        "classes": _names(arguments.classes),
        "background": arguments.background or None,
        "mpp": arguments.mpp,
        "mask_values": _pairs(arguments.mask_values, "--mask-values", "255=gland"),
        "lesions": arguments.lesions,
        **{each.name: getattr(arguments.cohort, each.name) for each in fields(arguments.cohort)},
        "to": arguments.to,
        "counters": console.counter,
    }
    options = {name: value for name, value in options.items() if name in signature(read).parameters}
    if arguments.source != "outlines":
        return options
    return {
        **options,
        "outlines": more.outlines,
        "without_outlines": more.without_outlines,
        "cutting": _cutting(more),
    }


def _cutting(more: OutlineArguments) -> Any:
    from histill.core.config import resolve
    from histill.data.sources.pieces import Cutting

    if more.cut == "slides":
        return None
    shares = {name: share(getattr(more, name)) for name in ("overlap", "least", "known", "least_tissue")}
    numbers = {name: getattr(more, name) for name in ("at", "tile", "largest", "most")}
    return resolve(Cutting, ("flags", {"form": more.cut, **numbers, **shares}))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str, flag: str, example: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _names(text)]
    wrong = [value for value, equals, meaning in pairs if not equals or not meaning]
    if wrong:
        raise HistillError(
            f"'{wrong[0]}' says nothing of a value", code=Exit.USAGE, subject=flag, mend=f"Write {example}"
        )
    return {value.strip(): meaning.strip() for value, _, meaning in pairs}
