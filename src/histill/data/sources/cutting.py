"""Slides cut one after the other into folders that appear when they are whole, and are not cut twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import table_error
from histill.core.record import EMPTY, OK, Record, describe, fingerprint, read_record, still_holds
from histill.core.storage import file_hash, lock, new_folder, remove, safe_name, sweep
from histill.data.sources.pairing import Pair, Reading, listed, raise_all
from histill.data.sources.pieces import Cutting, Progress, piece_files, plan_pieces, write_pieces
from histill.data.truth import DrawnTruth
from histill.slides.identity import fingerprint_slide, snapshot, still

RECORD = "record.json"

Counters = Callable[[str], Progress]
"""What is being done -> a function that is told (done, in all)."""


@dataclass(frozen=True)
class Cut:
    """One piece on disk.

    Attributes:
        id: of the piece.
        pair: where it comes from.
        image: its file.
        mask: its true mask.
        labels: which classes it shows.
    """

    id: str
    pair: Pair
    image: Path
    mask: Path
    labels: tuple[str, ...]


def cut_slides(
    pairs: Sequence[Pair],
    reading: Reading,
    card: DatasetCard,
    cutting: Cutting,
    folder: Path,
    counters: Counters,
    *,
    anew: bool,
) -> tuple[list[Cut], list[str]]:
    """Cut slides into ``<folder>/<slide>/images`` and ``masks``. What is there and still holds is not cut again.

    Args:
        pairs: slides and outlines.
        reading: how they are read.
        card: the classes.
        cutting: how they are cut.
        folder: where to.
        counters: shows how far a step has come.
        anew: whether slides that were cut otherwise are cut anew, as no table names what there is.

    Returns:
        The pieces, and notes on what was left out.

    Raises:
        HistillError: input (4) with every slide that cannot be read, when the others are cut; usage (2) if nothing is
            found, or a slide was cut otherwise before; storage (7); busy (8).
    """
    cutter = _Cutter(reading, card, cutting, folder)
    cuts: list[Cut] = []
    left_out: Counter[str] = Counter()
    bare, faults = [], []
    with lock(folder):
        sweep(folder)
        held = cutter.held(pairs, counters("looking at what is cut already"), anew=anew)
        for number, pair in enumerate(pairs, 1):
            progress = counters(f"cutting {pair.id}, slide {number} of {len(pairs)}")
            try:
                record = held.get(pair.id) or cutter.cut(pair, progress)
            except HistillError as error:
                if error.code not in (Exit.INPUT, Exit.UNSAFE):
                    raise
                faults.append(error)
                continue
            left_out.update(record.details["left_out"])
            found = cutter.cuts(pair, record)
            cuts += found
            if not found:
                bare.append(pair.id)
    raise_all(faults, folder)
    notes = [f"Left out: {count} {cutting.form} {why}" for why, count in sorted(left_out.items())]
    if not cuts:
        raise HistillError(
            "; ".join([f"no {cutting.form} were found", *notes]),
            code=Exit.USAGE,
            subject=str(folder),
            mend="Cut finer (--at) or smaller (--tile), ask for less (--known, --least), or name a --background",
        )
    if bare:
        notes.append(f"Slides that gave no {cutting.form}: {listed(bare)}")
    return cuts, notes


@dataclass(frozen=True)
class _Cutter:
    reading: Reading
    card: DatasetCard
    cutting: Cutting
    folder: Path

    def held(self, pairs: Sequence[Pair], progress: Progress, *, anew: bool) -> dict[str, Record]:
        """The records of slides that are cut already, and just so."""
        held: dict[str, Record] = {}
        faults = []
        for done, pair in enumerate(pairs, 1):
            place = self._place(pair)
            if place.exists():
                record = read_record(place / RECORD)
                if record is None:
                    faults.append(f"{place}: no import made this")
                elif still_holds(record, place, settings=self._settings, source=self._source(pair)):
                    held[pair.id] = record
                elif anew:
                    remove(place)
                else:
                    faults.append(f"{place}: cut otherwise, from other files, or damaged")
            progress(done, len(pairs))
        if faults:
            mend = "Choose another name for the table; or remove these folders, and the table, to cut them anew"
            raise table_error(self.folder, faults, mend)
        return held

    def cut(self, pair: Pair, progress: Progress) -> Record:
        """Cut one slide."""
        source, before = self._source(pair), snapshot(pair.slide)
        outlines, _ = self.reading.outlines(pair)
        with new_folder(self._place(pair)) as place:
            with self.reading.slide(pair) as slide, DrawnTruth(pair.slide, self.card, outlines) as truth:
                plan = plan_pieces(pair.id, slide, outlines, truth, self.card, self.cutting)
                write_pieces(slide, truth, plan, self.card.as_classes(), self.cutting.at, place, progress)
            still(pair.slide, before)
            record = Record(
                status=OK if plan.pieces else EMPTY,
                settings=self._settings,
                source=source,
                outputs=describe(place, [file for piece in plan.pieces for file in piece_files(piece.id)]),
                details={
                    "pieces": [[piece.id, *piece.labels] for piece in plan.pieces],
                    "left_out": {why: count for why, count in sorted(plan.left_out.items()) if count},
                },
            )
            record.write(place / RECORD)
        return record

    def cuts(self, pair: Pair, record: Record) -> list[Cut]:
        """The pieces that a record names."""
        cuts = []
        for name, *labels in record.details["pieces"]:
            image, mask = (self._place(pair) / file for file in piece_files(name))
            cuts.append(Cut(name, pair, image, mask, tuple(labels)))
        return cuts

    def _place(self, pair: Pair) -> Path:
        return self.folder / safe_name(pair.id)

    @property
    def _settings(self) -> str:
        classes = self.card.model_dump(mode="json", include={"classes", "background"})
        return fingerprint([self.cutting.model_dump(mode="json"), classes, dict(self.reading.rename)])

    def _source(self, pair: Pair) -> str:
        drawn = None if pair.outlines is None else file_hash(pair.outlines)
        return fingerprint([fingerprint_slide(pair.slide), drawn, self.reading.mpp])
