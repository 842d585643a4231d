"""Your own CSV: any of the known column names, classes as you give them or as the labels name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.cells import read_cells
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import (
    COLUMN_OF,
    LABEL_SEPARATOR,
    parse_rows,
    patients_in_two_splits,
    plausible_mpp,
    table_error,
)
from histill.data.sources.published import Imported


def read(
    table: Path,
    *,
    classes: Sequence[str] = (),
    background: str | None = None,
    mask_values: Mapping[str, str] | None = None,
    mpp: float | None = None,
) -> Imported:
    """Read a table of images.

    Args:
        table: a CSV in UTF-8 with a header; columns and their aliases as in `core.manifest.COLUMNS`, others are left
            out. Paths are relative to it.
        classes: class names in label order; left out, those found in the labels, in alphabetic order.
        background: the class that labels never name.
        mask_values: what the pixel values of masks mean; see `DatasetCard.mask_values`.
        mpp: spacing in um/px of rows that give none.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if the table is not there.
    """
    try:
        data = table.read_bytes()
    except OSError as error:
        raise HistillError(
            "there is no readable table", code=Exit.INPUT, subject=str(table), mend="Check the path"
        ) from error
    header, rows, _ = read_cells(data)
    ours = [COLUMN_OF.get(cell.lower()) for cell in header]
    notes = []
    if not classes:
        classes = _classes_in(ours, rows)
        if not classes:
            raise HistillError(
                "no label names a class",
                code=Exit.USAGE,
                subject=str(table),
                mend="Fill in the column 'labels', or name the classes with --classes",
            )
        notes.append(f"No classes were given; the labels name {', '.join(classes) or 'none'}, in this order")
    given = {"classes": list(classes), "background": background, "mask_values": dict(mask_values or {})}
    card = resolve(DatasetCard, ("classes and mask values", given))
    dropped = [cell for cell, name in zip(header, ours, strict=True) if name is None]
    if not {"x", "y"} & set(ours):
        # Without a corner, width and height are the image's own and no crop.
        dropped += [cell for cell, name in zip(header, ours, strict=True) if name in ("w", "h")]
    if dropped:
        notes.append(f"Columns left out: {', '.join(cell or '(no name)' for cell in dropped)}")
    samples, faults = parse_rows(data, table, card, leave_out=dropped)
    faults += patients_in_two_splits(samples)
    if faults:
        raise table_error(table, faults, "Correct these lines")
    if mpp is not None:
        if not plausible_mpp(mpp):
            raise HistillError(f"{mpp} um/px is not plausible", code=Exit.USAGE, subject="mpp", mend="Give um/px")
        samples = [sample if sample.mpp is not None else replace(sample, mpp=mpp) for sample in samples]
    return Imported(tuple(samples), card, tuple(notes))


def _classes_in(ours: Sequence[str | None], rows: Sequence[tuple[int, Sequence[str]]]) -> tuple[str, ...]:
    if "labels" not in ours:
        return ()
    column = ours.index("labels")
    labels = {part.strip() for _, cells in rows for part in cells[column].split(LABEL_SEPARATOR)}
    for label in sorted(labels):
        if ";" in label or "," in label:
            raise HistillError(
                f"the label '{label}' looks like several",
                code=Exit.USAGE,
                subject="labels",
                mend=f"Separate labels by '{LABEL_SEPARATOR}', or name the classes with --classes",
            )
    return tuple(sorted(labels - {""}))
