"""CSV in and out: strict, in UTF-8, each fault with its line, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")
NOT_UTF8 = "\N{REPLACEMENT CHARACTER}"


def read_cells(data: bytes) -> tuple[list[str], list[tuple[int, list[str]]], list[str]]:
    """The header, the rows with their line numbers, and what is wrong: (header, rows, faults).

    A row that is ragged or not UTF-8 is a fault and not among the rows; blank rows are passed over. Cells are stripped,
    and those that `write_cells` defused are as they were.
    """
    # A byte that is not UTF-8 becomes NOT_UTF8, so that one bad line does not hide the faults of the others.
    text = data.decode("utf-8-sig", "replace")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    faults: list[str] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if any(NOT_UTF8 in cell for cell in cells):
                faults.append(f"line {reader.line_num}: not UTF-8; save the table as UTF-8")
            elif any(cells) and len(cells) != len(header):
                faults.append(f"line {reader.line_num}: {len(cells)} cells under {len(header)} columns")
            elif any(cells):
                rows.append((reader.line_num, [_armed(cell.strip()) for cell in cells]))
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")
    if not rows and not faults:
        faults.append("line 1: the table has no rows")
    return header, rows, faults


def write_cells(header: Iterable[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table as CSV; a cell that a spreadsheet would run gets an apostrophe in front. A number is no such cell."""
    buffer = io.StringIO(newline="")
    plain = csv.writer(buffer, lineterminator="\n")
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(header)
    for row in rows:
        cells = [str(cell) if isinstance(cell, int | float) else _defused(str(cell)) for cell in row]
        # Left to itself, csv leaves a lone carriage return bare, and no reader takes that.
        (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
    return buffer.getvalue().encode(errors="backslashreplace")


def _defused(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(RUN_BY_SPREADSHEETS) else cell


def _armed(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(RUN_BY_SPREADSHEETS) else cell
