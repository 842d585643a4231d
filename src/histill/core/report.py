"""What an evaluation says: named numbers with their count and interval, tables, warnings. JSON in, JSON out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histill.core.errors import Exit, HistillError

SCHEMA = "histill.report/1"
NOT_A_NUMBER = "\N{EM DASH}"
"""What a reader sees where a measure is not defined."""


@dataclass(frozen=True)
class Number:
    """One measure: its value, the number of cases behind it, and where known its 95 % interval.

    Attributes:
        value: the measure; nan where it is not defined (null in JSON). An int is a count and is shown as one.
        n: the number of cases (images, slides or patients: the measure's name says which) that it rests on.
        low: the lower end of the 95 % interval, or None if there is none.
        high: the upper end, or None.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        ends = [end for end in (self.low, self.high) if end is not None]
        if not all(math.isfinite(end) for end in ends) or ends != sorted(ends):
            raise ValueError(f"not an interval: {ends}")

    @property
    def defined(self) -> bool:
        """Whether there is a value at all."""
        return math.isfinite(self.value)

    def value_text(self) -> str:
        """The value alone, such as ``0.731``."""
        if not self.defined:
            return NOT_A_NUMBER
        return str(self.value) if isinstance(self.value, int) else f"{self.value:.{self._decimals()}f}"

    def interval_text(self) -> str:
        """The interval alone, such as ``[0.702, 0.760]``; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self.low:.{self._decimals()}f}, {self.high:.{self._decimals()}f}]"

    def __str__(self) -> str:
        return f"{self.value_text()} {self.interval_text()}".rstrip()

    def _decimals(self) -> int:
        """Three digits or so, the same for the value and both ends."""
        largest = max(abs(number) for number in (self.value, self.low or 0, self.high or 0) if math.isfinite(number))
        return 3 if largest <= 1 else 2 if largest < 10 else 1


Cell = str | int | float | Number | None


@dataclass(frozen=True)
class Table:
    """A table: a title, column names and rows of text, numbers or `Number`s.

    Attributes:
        note: one or two sentences below the table, such as the rule that its measures follow.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.title}': {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Report:
    """What an evaluation says. The order of everything is the order it was declared in.

    Attributes:
        title: what was evaluated.
        numbers: each measure by its name, such as ``pooled/mIoU`` or ``per_image/IoU/tumour``. What stands before the
            first slash says over what was averaged; the two are never mixed.
        tables: the same numbers, and others, for people.
        warnings: what a reader must know before believing a number; shown first.
        settings: what the numbers depend on: seeds, thresholds, hashes. Values that JSON can hold.
    """

    title: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The report as JSON text; the same report gives the same bytes. Floats keep six significant digits."""
        document = {
            "schema": SCHEMA,
            "title": self.title,
            "warnings": list(self.warnings),
            "numbers": {name: _number_out(number) for name, number in self.numbers.items()},
            "tables": [
                {
                    "title": table.title,
                    "columns": list(table.columns),
                    "rows": [[_cell_out(cell) for cell in row] for row in table.rows],
                    "note": table.note,
                }
                for table in self.tables
            ],
            "settings": dict(self.settings),
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, subject: str = "report") -> Report:
        """The report that `to_json` wrote.

        Args:
            text: JSON text.
            subject: where the text comes from, for the error.

        Raises:
            HistillError: it is not such a report.
        """
        try:
            document = json.loads(text)
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema is '{document['schema']}', not '{SCHEMA}'")
            return cls(
                title=document["title"],
                numbers={name: _number_in(number) for name, number in document["numbers"].items()},
                tables=tuple(
                    Table(
                        title=table["title"],
                        columns=tuple(table["columns"]),
                        rows=tuple(tuple(_cell_in(cell) for cell in row) for row in table["rows"]),
                        note=table["note"],
                    )
                    for table in document["tables"]
                ),
                warnings=tuple(document["warnings"]),
                settings=document["settings"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistillError(
                f"not a histill report: {error}",
                code=Exit.INPUT,
                subject=subject,
                mend="Make it again with `histill evaluate`",
            ) from error


def _rounded(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    # nan and the infinities have no place in JSON; 0.0 + x turns a negative zero into zero.
    return 0.0 + float(f"{value:.6g}") if math.isfinite(value) else None


def _number_out(number: Number) -> dict[str, float | None]:
    document: dict[str, float | None] = {"value": _rounded(number.value), "n": number.n}
    if number.low is not None:
        document |= {"low": _rounded(number.low), "high": _rounded(number.high)}
    return document


def _number_in(document: Mapping[str, Any]) -> Number:
    value = document["value"]
    return Number(math.nan if value is None else value, document["n"], document.get("low"), document.get("high"))


def _cell_out(cell: Cell) -> object:
    if isinstance(cell, Number):
        return _number_out(cell)
    return _rounded(cell) if isinstance(cell, float) else cell


def _cell_in(cell: Any) -> Cell:
    return _number_in(cell) if isinstance(cell, dict) else cell
