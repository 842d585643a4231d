"""Apply a trained method to a table's images: masks, a record for each, and a table of what became of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.cells import write_cells
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.masks import label_png
from histill.core.record import OK, QUARANTINED, Record, describe, fingerprint, still_holds
from histill.core.storage import lock, remove, safe_name, sweep, write_bytes
from histill.data.images import ImageCache
from histill.data.predicted import TABLE, Predictions, source_of
from histill.engine.run import Machine, build_fabric, computes
from histill.engine.training import Trained

MOST_PIXELS_AT_ONCE = 16_000_000
"""Of one image: a larger one would take tens of GiB in the network."""


@dataclass(frozen=True)
class Applied:
    """What became of a table's images.

    Attributes:
        total: images asked for.
        reused: of these, taken from an earlier run.
        quarantined: id -> why, of those put aside.
    """

    total: int
    reused: int
    quarantined: dict[str, str]


def apply(
    trained: Trained,
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    probabilities: bool = False,
    most_quarantined: float = 0.05,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> Applied:
    """Segment every image of a table into a folder; what stands there already and still holds is not done again.

    Args:
        trained: see `load`.
        table: the images.
        folder: gets ``masks/<id>.png``, ``records/<id>.json`` and `predictions.csv`, and on request
            ``probabilities/<id>.npz`` (float16 [k, h, w]).
        machine: device and precision.
        probabilities: whether to keep them.
        most_quarantined: share of the images beyond which the run is taken to be broken and stops.
        listener: is told every event.

    Raises:
        HistillError: input (4) if more than `most_quarantined` of the images cannot be read.
    """
    fabric = build_fabric(machine)
    method = trained.method.to(fabric.device)
    journal = Journal(folder / "journal.jsonl", listener)
    predictions = Predictions(
        folder,
        method=method.card.name,
        model=trained.digest,
        settings=fingerprint([trained.digest, computes(fabric), probabilities]),
        classes=method.classes.names,
        about=trained.about,
        warnings=tuple(dict.fromkeys([*trained.warnings, *table.warnings])),
    )
    settings = predictions.settings
    images = ImageCache()
    quarantined: dict[str, str] = {}
    reused = 0
    with lock(folder):
        sweep(folder)
        predictions.write()
        # One bad image in a handful is no sign of a broken mount, unless the user says that none may be bad.
        allowed = max(1, int(most_quarantined * len(table.samples))) if most_quarantined else 0
        for done, sample in enumerate(table.samples):
            journal.show("image", done=done + 1, of=len(table.samples))
            path, source = predictions.record_path(sample), source_of(sample)
            record = predictions.record_of(sample)
            if record and record.status == OK and still_holds(record, folder, settings=settings, source=source):
                reused += 1
                continue
            try:
                image = _small_enough(images.read(sample), sample)
            except HistillError as error:
                quarantined[sample.id] = str(error)
                journal.say("quarantined", id=sample.id, why=str(error))
                # What an earlier run made of an image that could still be read.
                remove(folder / f"masks/{safe_name(sample.id)}.png")
                remove(folder / f"probabilities/{safe_name(sample.id)}.npz")
                Record(QUARANTINED, settings, source, details={"id": sample.id}, message=str(error)).write(path)
                if len(quarantined) > allowed:
                    write_bytes(folder / TABLE, _table(table, predictions))
                    raise _broken(quarantined, table) from error
                continue
            with fabric.autocast():
                prediction = method.predict(image)
            names = [f"masks/{safe_name(sample.id)}.png"]
            write_bytes(folder / names[0], label_png(prediction.labels, method.classes))
            if probabilities:
                names.append(f"probabilities/{safe_name(sample.id)}.npz")
                buffer = io.BytesIO()
                np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
                write_bytes(folder / names[1], buffer.getvalue())
            h, w = prediction.labels.shape
            counts = np.bincount(prediction.labels.ravel(), minlength=len(method.classes)).tolist()
            details = {"id": sample.id, "size": [w, h], "pixels": dict(zip(method.classes.names, counts, strict=True))}
            Record(OK, settings, source, describe(folder, names), details).write(path)
        write_bytes(folder / TABLE, _table(table, predictions))
        journal.say("applied", total=len(table.samples), reused=reused, quarantined=len(quarantined))
    return Applied(len(table.samples), reused, quarantined)


def _small_enough(image: NDArray[np.uint8], sample: Sample) -> NDArray[np.uint8]:
    h, w = image.shape[:2]
    if h * w > MOST_PIXELS_AT_ONCE:
        raise HistillError(
            f"{w} x {h} pixels are more than are segmented in one piece ({MOST_PIXELS_AT_ONCE // 1_000_000} million)",
            code=Exit.INPUT,
            subject=str(sample.path),
            mend="Give crops of it in a table (columns x, y, w, h)",
        )
    return image


def _table(table: Manifest, predictions: Predictions) -> bytes:
    names = table.classes.names
    rows: list[list[object]] = []
    for sample in table.samples:
        record = predictions.record_of(sample)
        if record is not None:
            mask = next((name for name in record.outputs if name.startswith("masks/")), "")
            pixels = record.details.get("pixels", {})
            rows.append([sample.id, record.status, mask, *(pixels.get(name, "") for name in names), record.message])
    return write_cells(["id", "status", "mask", *(f"{name}_px" for name in names), "message"], rows)


def _broken(quarantined: dict[str, str], table: Manifest) -> HistillError:
    first = next(iter(quarantined.values()))
    return HistillError(
        f"{len(quarantined)} of {len(table.samples)} images cannot be read; the first: {first}",
        code=Exit.INPUT,
        subject=str(table.path),
        mend="Check that the disk is mounted, or raise --max-quarantined",
    )
