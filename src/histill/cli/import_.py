"""Make a table of a data set that is published, or of your own CSV."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from histill.cli.console import Console, is_help, parse
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest, write_manifest


@dataclass
class Arguments:
    """Make a table (CSV, with a YAML card beside it) that train, predict and evaluate read.

    Every image and mask is opened once; all faults come in one report, each with its line.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """what is imported: see the list below"""
    origin: Positional[Annotated[Path, arg(metavar="FOLDER-OR-CSV")]]
    """the data set's folder, or your CSV"""
    to: Path
    """the table to write, such as data.csv"""
    classes: str = ""
    """plain: class names in label order, comma between; left out, those that the labels name"""
    background: str = ""
    """plain: the class that image labels never name, if there is one"""
    mask_values: str = ""
    """plain: what the masks' pixel values mean, such as 0=stroma,255=gland,3=ignore"""
    mpp: float | None = None
    """plain: spacing in um/px of rows that give none"""


def run(given: list[str]) -> int:
    """Import."""
    from histill.data.images import require_sound_files
    from histill.data.sources.listing import reader, sources

    if is_help(given):
        print("sources:\n" + "\n".join(f"  {name:<10} {line}" for name, line in sources().items()) + "\n")
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
    options = {}
    if arguments.source == "plain":
        options = {
            "classes": _names(arguments.classes),
            "background": arguments.background or None,
            "mask_values": _pairs(arguments.mask_values),
            "mpp": arguments.mpp,
        }
    elif arguments.classes or arguments.background or arguments.mask_values or arguments.mpp is not None:
        raise HistillError(
            "classes, background, mask values and mpp of a published data set are known",
            code=Exit.USAGE,
            subject=arguments.source,
            mend="Leave these flags out",
        )
    imported = reader(arguments.source)(arguments.origin, **options)
    # The lines are those of the table to come; it is written only if every file is sound.
    rows = tuple(replace(sample, line=line) for line, sample in enumerate(imported.samples, 2))
    console = Console()
    with console.showing():
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _names(text)]
    wrong = [value for value, equals, meaning in pairs if not equals or not meaning]
    if wrong:
        raise HistillError(
            f"'{wrong[0]}' says nothing of a value", code=Exit.USAGE, subject="--mask-values", mend="Write 255=gland"
        )
    return {value.strip(): meaning.strip() for value, _, meaning in pairs}
