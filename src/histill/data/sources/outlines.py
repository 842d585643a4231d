"""Your slides and outlines: QuPath GeoJSON, ASAP XML (Camelyon16); whole, or cut into regions or patches.

Outlines are the truth that predictions of slides are scored against; and weak labels follow from them: which classes a
slide, a region, or a patch shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from histill.core.card import DatasetCard
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE
from histill.core.manifest import Sample
from histill.core.storage import safe_name
from histill.data.sources.cutting import Counters, cut_slides
from histill.data.sources.pairing import (
    Looked,
    Pair,
    Reading,
    WithoutOutlines,
    fault,
    listed,
    look,
    paired,
    raise_all,
)
from histill.data.sources.pieces import Cutting, Progress
from histill.data.sources.published import Imported
from histill.data.truth import is_ignored
from histill.formats.features import outline_feature, write_features
from histill.slides.resolution import choose

PATIENTS = (
    (re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])"), "TCGA"),
    (re.compile(r"(patient_[0-9]+)_node_[0-9]+"), "Camelyon17"),
)
"""Names of slides that say whose they are, and who names them so."""

GREY = (128, 128, 128)


def _quiet(doing: str) -> Progress:
    return lambda done, of: None


def read(
    slides: Path,
    *,
    to: Path,
    outlines: Path | None = None,
    classes: Sequence[str] = (),
    background: str | None = None,
    rename: Mapping[str, str] | None = None,
    without_outlines: WithoutOutlines = "unknown",
    split: str = "",
    mpp: float | None = None,
    cutting: Cutting | None = None,
    counters: Counters = _quiet,
) -> Imported:
    """Read slides and outlines; cut them, if asked.

    What is cut lies in a folder beside the table that has its name, one folder a slide; each appears when it is whole.

    Args:
        slides: a slide, or a folder of them.
        to: the table to come.
        outlines: a file, or a folder of files named as the slides; left out, they lie beside the slides.
        classes: names in label order; left out, those of the outlines in alphabetic order.
        background: the class of what no outline covers.
        rename: a class of the outlines -> the class it stands for, or ``ignore``; ``none``: outlines without a class.
        without_outlines: what a slide without outlines is: unknown, nothing but background, or left out.
        split: of all rows.
        mpp: um per level-0 px of slides that do not state it.
        cutting: how slides are cut; None for one row a slide.
        counters: shows how far a step has come.

    Raises:
        HistillError: usage (2) or input (4) with everything that is wrong; storage (7).
    """
    choose((), mpp)
    bare = without_outlines == "background"
    if bare and background is None:
        what = "slides without outlines are to be background, but no class is"
        raise HistillError(what, code=Exit.USAGE, subject="--without-outlines", mend="Name it: --background normal")
    beside = slides if slides.is_dir() else slides.parent
    pairs, faults = paired(slides, outlines or beside)
    if not any(pair.outlines for pair in pairs) and not faults and not (bare and classes):
        mend = "Name the folder of .geojson or .xml files that are called as the slides are: --outlines FOLDER"
        raise fault("there are no outlines here", outlines or beside, mend, Exit.INPUT)
    reading = Reading(rename or {}, without_outlines, mpp)
    looked = []
    count = counters("looking at slides")
    for done, pair in enumerate(pairs, 1):
        looked.append(look(pair, reading, spacing=cutting is not None))
        count(done, len(pairs))
    faults += [each for one in looked for each in one.faults]
    names = _class_names(looked, classes, background)
    faults += [each for one in looked for each in _unknown(one, names)]
    raise_all(faults, slides)
    card = _card(names, background, looked, cutting)
    notes = _notes(looked, card, reading, cutting, given=bool(classes))
    # What is written beside the table, and must not be taken for slides and outlines the next time.
    folder = to.with_suffix("")
    anew = [one for one in looked if one.renamed or (bare and one.pair.outlines is None)]
    if cutting is not None or anew:
        for place in (slides, outlines or beside):
            if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
                raise fault(f"would write into the folder that is read, {place}", to, "Choose another --to")
    if cutting is None:
        kept = [one for one in looked if one.pair.outlines or without_outlines != "skip"]
        drawn = {one.pair.id: _write_anew(one.pair, reading, card, folder) for one in anew}
        return Imported(tuple(_row(one, reading, card, split, drawn) for one in kept), card, tuple(notes))
    known = [one.pair for one in looked if one.found or (bare and cutting.form == "patches")]
    cuts, left_out = cut_slides(known, reading, card, cutting, folder, counters, anew=not to.exists())
    samples = tuple(
        Sample(cut.id, cut.image, None, cut.labels, patient(cut.pair.id), split, cut.mask, None, cutting.at)
        for cut in cuts
    )
    unseen = [name for name in card.classes if not any(name in sample.labels for sample in samples)]
    if unseen:
        left_out.append(f"No label names {', '.join(unseen)}")
    return Imported(samples, card, (*notes, *left_out))


def patient(slide: str) -> str:
    """Whose a slide is, where its name says so as `PATIENTS` has it; else its name."""
    found = next((found[1] for pattern, _ in PATIENTS if (found := pattern.match(slide))), None)
    return slide if found is None else found


def _class_names(looked: Sequence[Looked], classes: Sequence[str], background: str | None) -> list[str]:
    """The names of the classes in label order."""
    names = list(classes)
    if not names:
        found = {name.strip() for one in looked for name in one.found if name and not is_ignored(name.strip())}
        # Of names that differ in upper and lower case only the first counts.
        names = sorted({name.lower(): name for name in sorted(found, reverse=True)}.values(), key=str.lower)
    if background is None:
        return names
    names = [background if name.lower() == background.lower() else name for name in names]
    return names if background in names else [*names, background]


def _unknown(looked: Looked, names: Sequence[str]) -> list[HistillError]:
    """What is wrong with the classes of a slide's outlines."""
    known = {name.lower() for name in names}
    faults = []
    for name, count in looked.found.items():
        path = looked.pair.outlines or looked.pair.slide
        if name is None:
            mend = "Give them one in QuPath, or say it of all: --rename none=NAME, or none=ignore"
            faults.append(fault(f"outlines without a class: {count}", path, mend))
        elif name.strip().lower() not in known and not is_ignored(name.strip()):
            what = f"outlines of class '{name}', which is not one of {', '.join(names)}: {count}"
            mend = f"Name it in --classes, or say what it stands for: --rename '{name}=NAME', or '{name}=ignore'"
            faults.append(fault(what, path, mend))
    return faults


def _card(
    names: Sequence[str], background: str | None, looked: Sequence[Looked], cutting: Cutting | None
) -> DatasetCard:
    count = sum(bool(one.found) for one in looked)
    source = f"slides, {count} with outlines"
    values: dict[str, Any] = {"classes": list(names), "background": background, "source": source}
    if cutting is not None:
        values["source"] = f"{cutting.form} cut from {source}, at {cutting.at:g} um/px"
        # Said in full, as a mask of 0 and 255 alone could mean two things.
        values["mask_values"] = {str(i): name for i, name in enumerate(names)} | {str(IGNORE): "ignore"}
    return resolve(DatasetCard, ("classes", values))


def _row(looked: Looked, reading: Reading, card: DatasetCard, split: str, anew: Mapping[str, Path]) -> Sample:
    """The row of a whole slide."""
    pair = looked.pair
    found = {(name or "").strip().lower() for name in looked.found}
    labels = tuple(name for name in card.classes if name != card.background and name.lower() in found)
    known = pair.outlines is not None or reading.without_outlines == "background"
    if not labels and known and card.background is not None:
        labels = (card.background,)
    mpp = reading.mpp if looked.stated is None else None
    mask = anew.get(pair.id, pair.outlines)
    return Sample(pair.id, pair.slide, None, labels, patient(pair.id), split, mask, None, mpp)


def _write_anew(pair: Pair, reading: Reading, card: DatasetCard, folder: Path) -> Path:
    """A slide's outlines as GeoJSON, named as the table's classes are; where there are none, that says so."""
    path = folder / "outlines" / f"{safe_name(pair.id)}.geojson"
    colours = {name.lower(): colour for name, colour in zip(card.classes, card.as_classes().colours, strict=True)}
    features = []
    for each in reading.outlines(pair)[0]:
        # What is thinner than the last decimal of a coordinate holds no pixel's centre.
        with suppress(ValueError):
            features.append(outline_feature(each, colours.get((each.class_name or "").lower(), GREY)))
    write_features(path, features, slide=pair.id)
    return path


def _notes(
    looked: Sequence[Looked], card: DatasetCard, reading: Reading, cutting: Cutting | None, *, given: bool
) -> list[str]:
    """What the user should know, one sentence each."""
    notes = []
    if not given:
        drawn = [name for name in card.classes if name != card.background] or ["none"]
        notes.append(f"No classes were given; the outlines name {', '.join(drawn)}, in this order")
    notes += [f"{one.pair.outlines}: {note}" for one in looked for note in one.notes]
    clipped = sum(one.clipped for one in looked)
    if clipped:
        notes.append(f"Outlines that reach beyond their slide, and are cut off at its edge: {clipped}")
    bare = _those(looked, lambda one: one.pair.outlines is None)
    if bare:
        left_out = reading.without_outlines == "skip" or cutting is not None
        meaning = "left out" if left_out else "of which nothing is known"
        if reading.without_outlines == "background":
            meaning = f"taken for nothing but {card.background}"
        notes.append(f"Slides without outlines, {meaning}: {listed(bare)}")
    for pattern, who in PATIENTS:
        count = sum(bool(pattern.match(one.pair.id)) for one in looked)
        if count:
            notes.append(f"Slides whose patients follow from their names, as {who} has them: {count}")
    silent = _those(looked, lambda one: one.stated is None)
    if silent and reading.mpp is None:
        notes.append(f"Slides that do not say how large a pixel is, and will need --mpp: {listed(silent)}")
    if cutting is not None:
        coarse = _those(looked, lambda one: (one.stated or reading.mpp or 0) > 1.05 * cutting.at)
        if coarse:
            notes.append(f"Slides that are coarser than {cutting.at:g} um/px, and were enlarged: {listed(coarse)}")
        if len(card.classes) == 1:
            notes.append(f"Every label is {card.classes[0]}; --background NAME adds what no outline covers")
    return notes


def _those(looked: Sequence[Looked], which: Callable[[Looked], bool]) -> list[str]:
    return [one.pair.id for one in looked if which(one)]
