"""Slides and their outlines: which belong together, what they hold, and all that is wrong with them in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from histill.core.errors import Exit, HistillError
from histill.core.manifest import table_error
from histill.data.truth import OUTLINES, read_outlines
from histill.formats.outlines import Outlines
from histill.slides.open import slide_paths
from histill.slides.worker import GuardedSlide, open_guarded

SHOWN = 5
"""So many names stand in a note; the rest are counted."""

WithoutOutlines = Literal["unknown", "background", "skip"]


@dataclass(frozen=True)
class Pair:
    """A slide and its outlines, or None."""

    id: str
    slide: Path
    outlines: Path | None = None


@dataclass(frozen=True)
class Reading:
    """How slides and outlines are read.

    Attributes:
        rename: a class of the outlines -> the class it stands for, or ``ignore``; ``none``: outlines without a class.
        without_outlines: what a slide without outlines is: unknown, nothing but background, or left out.
        mpp: um per level-0 px of slides that do not state it.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    without_outlines: WithoutOutlines = "unknown"
    mpp: float | None = None

    def outlines(self, pair: Pair) -> tuple[Outlines, bool]:
        """The outlines of a pair, their classes renamed; and whether any was."""
        if pair.outlines is None:
            return Outlines(()), False
        found = read_outlines(pair.outlines)
        lower = {old.lower(): new for old, new in self.rename.items()}
        names = [lower.get((each.class_name or "none").strip().lower(), each.class_name) for each in found]
        renamed = tuple(replace(each, class_name=name) for each, name in zip(found, names, strict=True))
        return Outlines(renamed, found.notes), any(
            each.class_name != name for each, name in zip(found, names, strict=True)
        )

    @contextmanager
    def slide(self, pair: Pair) -> Iterator[GuardedSlide]:
        """The slide of a pair, with the user's spacing if it states none itself."""
        slide = open_guarded(pair.slide)
        if self.mpp is not None and slide.facts.spacing is None:
            slide.close()
            slide = open_guarded(pair.slide, self.mpp)
        with slide:
            yield slide


@dataclass
class Looked:
    """What a pair holds.

    Attributes:
        pair: which; without outlines where the file holds none, and that may mean something.
        found: how many outlines there are of each class; those that touch the slide.
        renamed: whether the file has other names for them.
        stated: um/px as the slide states it, or None.
        clipped: outlines that reach beyond the slide.
        notes: of the reading.
        faults: what is wrong.
    """

    pair: Pair
    found: Counter[str | None] = field(default_factory=Counter)
    renamed: bool = False
    stated: float | None = None
    clipped: int = 0
    notes: tuple[str, ...] = ()
    faults: list[HistillError] = field(default_factory=list)


def paired(slides: Path, outlines: Path) -> tuple[list[Pair], list[HistillError]]:
    """Slides with their outlines, by the stems of their names, and what is wrong.

    A slide and a file of outlines that are named one by one belong together, whatever they are called.

    Args:
        slides: one, or a folder of them.
        outlines: a file, or a folder of files.

    Raises:
        HistillError: input (4) if there is no slide, or no such path.
    """
    for path in (slides, outlines):
        if not path.exists():
            raise fault("there is no such file or folder", path, "Correct the path", Exit.INPUT)
    files = slide_paths(slides) if slides.is_dir() else [slides]
    if not files:
        raise fault("there is no slide here", slides, "Name the folder of your slides", Exit.INPUT)
    if slides.is_file() and outlines.is_file() and slides != outlines:
        return [Pair(slides.stem, slides, outlines)], []
    drawn = [outlines]
    if outlines.is_dir():
        # Beside a single slide may lie half a disk.
        lying = outlines.rglob("[!.]*") if slides.is_dir() else outlines.glob("[!.]*")
        drawn = [each for each in sorted(lying) if each.name.lower().endswith(OUTLINES) and each.is_file()]
    faults = []
    of_stem: dict[str, Path] = {}
    for file in files:
        twin = of_stem.setdefault(file.stem.lower(), file)
        if twin != file:
            faults.append(fault(f"another slide has this name: {twin}", file, "Rename one, or import them apart"))
    for stem, file in of_stem.items():
        image = of_stem.get(stem.removesuffix("_mask"), file)
        if image != file:
            faults.append(fault(f"looks like a mask of {image.name}", file, "Name the folder of the slides alone"))
    of_name = {file.name.lower(): stem for stem, file in of_stem.items()}
    found: dict[str, Path] = {}
    for file in drawn:
        # QuPath may call what it exports of a.svs a.svs.geojson.
        stem = of_name.get(_stem(file), _stem(file))
        if stem not in of_stem:
            if slides.is_dir():
                faults.append(fault("no slide has this name", file, "Rename it as its slide, or take it away"))
        elif found.setdefault(stem, file) != file:
            faults.append(fault(f"its slide has other outlines: {found[stem]}", file, "Keep one of them"))
    return [Pair(file.stem, file, found.get(stem)) for stem, file in of_stem.items()], faults


def look(pair: Pair, reading: Reading, *, spacing: bool) -> Looked:
    """Read a pair's outlines and its slide's header. What is wrong stands in the faults.

    Args:
        pair: which.
        reading: how.
        spacing: whether a slide without spacing is at fault.
    """
    looked = Looked(pair)
    outlines = Outlines(())
    try:
        outlines, looked.renamed = reading.outlines(pair)
        looked.notes = outlines.notes
        if pair.outlines is not None and not outlines:
            # An empty file says that there is nothing, if slides may say so.
            if outlines.notes or reading.without_outlines != "background":
                what = "; ".join(["holds no outline", *outlines.notes])
                looked.faults.append(fault(what, pair.outlines, "Draw some, or take it away", Exit.INPUT))
            looked.pair = replace(pair, outlines=None)
    except HistillError as error:
        looked.faults.append(error)
    try:
        with reading.slide(pair) as slide:
            said = slide.facts.spacing
            looked.stated = None if said is None or said.source == "user" else said.mpp
            if spacing:
                _ = slide.mpp
            size = slide.size
    except HistillError as error:
        looked.faults.append(error)
    else:
        _place(looked, outlines, size)
    return looked


def _place(looked: Looked, outlines: Outlines, size: tuple[int, int]) -> None:
    """Hold outlines against a slide of some width and height."""
    width, height = size
    beyond = []
    for number, outline in enumerate(outlines, 1):
        left, top, right, bottom = outline.area.bounds
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            beyond.append(outline.name or f"outline {number}")
            continue
        looked.found[outline.class_name] += 1
        looked.clipped += left < 0 or top < 0 or right > width or bottom > height
    if beyond and looked.pair.outlines is not None:
        what = f"of {len(outlines)} outlines, wholly outside the slide of {width} x {height} px: {listed(beyond)}"
        mend = "See that they were drawn on this slide, in px of its largest level"
        looked.faults.append(fault(what, looked.pair.outlines, mend, Exit.INPUT))


def _stem(path: Path) -> str:
    """A name in lower case without the ending of a file of outlines."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[0]


def fault(what: str, path: Path, mend: str, code: Exit = Exit.USAGE) -> HistillError:
    """What is wrong with a file."""
    return HistillError(what, code=code, subject=str(path), mend=mend)


def raise_all(faults: Sequence[HistillError], path: Path) -> None:
    """Raise what is wrong, if anything is: one fault as it is, several as a report."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        codes = {each.code for each in faults}
        mends = list(dict.fromkeys(each.mend for each in faults if each.mend))[:3]
        lines = [f"{each.subject}: {each.what}" for each in faults]
        raise table_error(path, lines, ". ".join(mends), codes.pop() if len(codes) == 1 else Exit.INPUT)


def listed(names: Sequence[str]) -> str:
    """How many there are, and the names of the first few."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"
