"""Apply a trained method or an encoder to a table, sample by sample: a record for each, and a table of the outcomes.

What still holds is not done again, what cannot be read is put aside, and the rest goes on. How one sample is worked on,
an image or a whole slide, is a `Work`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning_fabric import Fabric

from histill.core.cells import write_cells
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.record import EMPTY, OK, QUARANTINED, Record, describe, fingerprint, still_holds
from histill.core.storage import lock, remove, sweep, write_bytes
from histill.data.predicted import PREDICTIONS, Kind, Predictions, source_of
from histill.engine.run import computes
from histill.engine.training import Trained

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Model:
    """With what samples are worked on, as the index names it; see `Predictions`.

    Attributes:
        name: of the method or encoder.
        digest: of all that its results depend on.
        classes: names of what it tells apart.
        about: what else the index says of it.
        warnings: what every report about its results repeats.
    """

    name: str
    digest: str
    classes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, trained: Trained[Any]) -> Self:
        """A trained method."""
        method = trained.method
        return cls(method.card.name, trained.digest, method.classes.names, trained.about, trained.warnings)


@dataclass(frozen=True)
class Made:
    """What was made of one sample.

    Attributes:
        files: written, by their names below the folder.
        columns: of the sample's row in the table of predictions.
        details: what else its record holds.
        empty: why there was nothing to look at; else an empty text.
    """

    files: tuple[str, ...]
    columns: dict[str, float | int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    empty: str = ""


class Work(ABC):
    """How one kind of sample is worked on."""

    kind: ClassVar[Kind]
    column: ClassVar[str] = "mask"
    """of the table, that names the first of the files that `make` may write"""
    put_aside: ClassVar[tuple[Exit, ...]] = (Exit.INPUT, Exit.UNSAFE, Exit.USAGE)
    """errors that are one sample's; any other ends the run"""

    @property
    def name(self) -> str:
        """Of index and table."""
        return PREDICTIONS

    @property
    @abstractmethod
    def settings(self) -> Any:
        """What its results depend on besides model, machine and sample; JSON-like."""

    @abstractmethod
    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Write a sample's results into a folder.

        Raises:
            HistillError: the sample cannot be read; storage (7) errors end the whole run.
        """

    @abstractmethod
    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """The names of the files that `make` may write, the main one first; what an earlier run left of them goes."""


@dataclass(frozen=True)
class Applied:
    """What became of a table's samples.

    Attributes:
        total: asked for.
        reused: of these, taken from an earlier run.
        quarantined: id -> why, of those put aside.
        empty: id -> why, of those with nothing to look at.
    """

    total: int
    reused: int
    quarantined: dict[str, str]
    empty: dict[str, str]


def apply(
    work: Work,
    model: Model,
    table: Manifest,
    folder: Path,
    *,
    fabric: Fabric,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Work on every sample of a table; what stands in the folder already and still holds is not done again.

    Args:
        work: what is done to each.
        model: with what.
        table: the samples.
        folder: gets an index, a table, a record for each sample, and what `work` writes.
        fabric: device and precision.
        most_quarantined: share of the samples beyond which the run is taken to be broken and stops.
        listener: is told every event.

    Raises:
        HistillError: input (4) if more than `most_quarantined` of the samples cannot be read.
    """
    journal = Journal(folder / "journal.jsonl", listener)
    predictions = Predictions(
        folder,
        kind=work.kind,
        method=model.name,
        model=model.digest,
        settings=fingerprint([model.digest, computes(fabric), work.settings]),
        classes=model.classes,
        about=model.about,
        warnings=tuple(dict.fromkeys([*model.warnings, *table.warnings])),
        name=work.name,
    )
    settings = predictions.settings
    quarantined: dict[str, str] = {}
    empty: dict[str, str] = {}
    reused = 0
    with lock(folder):
        sweep(folder)
        predictions.write()
        # One bad sample in a handful is no sign of a broken mount, unless the user says that none may be bad.
        allowed = max(1, int(most_quarantined * len(table.samples))) if most_quarantined else 0
        for done, sample in enumerate(table.samples):
            journal.show("sample", kind=work.kind, done=done + 1, of=len(table.samples))
            path, source = predictions.record_path(sample), source_of(sample, work.kind)
            record = predictions.record_of(sample)
            if (
                record
                and record.status != QUARANTINED
                and still_holds(record, folder, settings=settings, source=source)
            ):
                reused += 1
                if record.status == EMPTY:
                    empty[sample.id] = record.message
                continue
            for name in work.may_write(sample):
                remove(folder / name)
            try:
                made = work.make(sample, folder, journal)
            except HistillError as error:
                if error.code not in work.put_aside:
                    raise
                quarantined[sample.id] = str(error)
                journal.say("quarantined", id=sample.id, why=str(error))
                for name in work.may_write(sample):
                    remove(folder / name)
                Record(QUARANTINED, settings, source, details={"id": sample.id}, message=str(error)).write(path)
                if len(quarantined) > allowed:
                    write_bytes(folder / f"{work.name}.csv", _table(table, predictions, work))
                    raise _broken(quarantined, table, work) from error
                continue
            if made.empty:
                empty[sample.id] = made.empty
                journal.say("empty", id=sample.id, why=made.empty)
            details = {"id": sample.id, "columns": made.columns, **made.details}
            status = EMPTY if made.empty else OK
            Record(status, settings, source, describe(folder, list(made.files)), details, made.empty).write(path)
        write_bytes(folder / f"{work.name}.csv", _table(table, predictions, work))
        journal.say(
            "applied",
            kind=work.kind,
            total=len(table.samples),
            reused=reused,
            quarantined=len(quarantined),
            empty=len(empty),
        )
    return Applied(len(table.samples), reused, quarantined, empty)


def _table(table: Manifest, predictions: Predictions, work: Work) -> bytes:
    records = [(sample, predictions.record_of(sample)) for sample in table.samples]
    known = [(sample, record) for sample, record in records if record is not None]
    columns = list(dict.fromkeys(name for _, record in known for name in record.details.get("columns", {})))
    rows: list[list[object]] = []
    for sample, record in known:
        values = record.details.get("columns", {})
        main = work.may_write(sample)[0]
        main = main if main in record.outputs else ""
        rows.append([sample.id, record.status, main, *(values.get(name, "") for name in columns), record.message])
    return write_cells(["id", "status", work.column, *columns, "message"], rows)


def _broken(quarantined: dict[str, str], table: Manifest, work: Work) -> HistillError:
    first = next(iter(quarantined.values()))
    return HistillError(
        f"{len(quarantined)} of {len(table.samples)} {work.kind} cannot be read; the first: {first}",
        code=Exit.INPUT,
        subject=str(table.path),
        mend="Check that the disk is mounted, or raise --max-quarantined",
    )
