"""A report as one HTML page that needs nothing else: no script, no remote file, its pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from histill.core.labels import Classes
from histill.core.report import Cell, Number, Report, Table
from histill.report.markdown import cell_text

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        title: a few words above it.
        caption: a sentence or two below it.
        image: the bytes of a PNG or JPEG.
        wide: over the whole page; else two side by side where there is room.
    """

    title: str
    caption: str
    image: bytes
    wide: bool = True

    @property
    def source(self) -> str:
        """The picture as a data: address."""
        for magic, kind in _MAGIC.items():
            if self.image.startswith(magic):
                return f"data:{kind};base64,{base64.b64encode(self.image).decode()}"
        raise ValueError(f"figure '{self.title}' is neither PNG nor JPEG")


@dataclass(frozen=True)
class Card:
    """A headline number.

    Attributes:
        label: what it is.
        number: the measure.
        note: a few words below it, such as what it is compared with.
    """

    label: str
    number: Number
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, some words, tables, then figures.

    Attributes:
        title: the heading.
        text: plain text; an empty line begins a paragraph.
        figures: shown in order.
        tables: shown in order. A cell in a column named `verdict` is shown as a badge.
        legend: classes whose colours the figures use.
    """

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    legend: Classes | None = None

    @property
    def paragraphs(self) -> list[str]:
        """The text, cut at empty lines."""
        return _paragraphs(self.text)


HEADLINES: Mapping[str, tuple[str, str]] = {
    "pooled/mIoU": ("mIoU", "over the set"),
    "pooled/FwIoU": ("FwIoU", "over the set"),
    "pooled/ACC": ("Accuracy", "over the set"),
    "per_image/mIoU": ("mIoU per image", "mean over images"),
    "difference/pooled/mIoU": ("Difference in mIoU", "over the set"),
    "difference/per_image/mIoU": ("Difference in mIoU per image", "mean over images"),
}
"""Numbers that make a headline where none is given: their label and note."""


def to_html(
    report: Report,
    figures: Sequence[Figure] = (),
    sections: Sequence[Section] = (),
    *,
    intro: str = "",
    cards: Sequence[Card] | None = None,
    classes: Classes | None = None,
) -> str:
    """The report as one HTML page: warnings, headline numbers, tables, pictures, and at the end every number.

    All text is escaped; the page forbids itself scripts and remote files.

    Args:
        report: what is said.
        figures: shown after the report's tables.
        sections: further parts, shown before the report's own tables; a page of a story has mostly these.
        intro: plain text below the title; an empty line begins a paragraph.
        cards: the headline numbers; None: those of `HEADLINES` that the report holds.
        classes: marks the class names in tables with their colours.
    """
    if cards is None:
        cards = [
            Card(label, report.numbers[name], note)
            for name, (label, note) in HEADLINES.items()
            if name in report.numbers
        ]
    own = Section("Results", tables=report.tables, figures=tuple(figures), legend=classes if figures else None)
    parts = [*sections, *([own] if own.tables or own.figures else [])]
    swatches = dict(zip(classes.names, classes.colours, strict=True)) if classes else {}
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            report=report,
            intro=_paragraphs(intro),
            cards=[(card, _bar(card.number, _scale([card.number]))) for card in cards],
            parts=[(part, [_laid_out(table, swatches) for table in part.tables]) for part in parts],
            settings=json.dumps(report.settings, indent=2, ensure_ascii=False) if report.settings else "",
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("histill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class _Bar:
    """Where an interval stands on its scale, in percent of the scale's width; `zero` only where it lies inside."""

    low: float
    high: float
    value: float
    zero: float | None


def _scale(numbers: Sequence[Number], *, signed: bool = False) -> tuple[float, float]:
    """The ends of the axis that these numbers are drawn on: -m to m if one is negative, 0 to 1 if that holds all."""
    ends = [end for number in numbers for end in (number.value, number.low, number.high) if end is not None]
    if signed or min(ends) < 0:
        most = 1.1 * max(map(abs, ends)) or 1.0
        return -most, most
    return 0.0, 1.0 if max(ends) <= 1 else 1.1 * max(ends)


def _bar(number: Number, scale: tuple[float, float]) -> _Bar | None:
    """The number's interval on a scale; None for counts and where there is no value."""
    if not number.defined or isinstance(number.value, int):
        return None
    start, end = scale

    def place(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    low, high = (number.value if edge is None else edge for edge in (number.low, number.high))
    return _Bar(place(low), place(high), place(number.value), place(0) if start < 0 else None)


def _laid_out(table: Table, swatches: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """A table as the template wants it: each cell with its kind, its text and its bar."""
    bars: dict[tuple[int, int], _Bar | None] = {}
    for column, name in enumerate(table.columns):
        cells = {row: cells[column] for row, cells in enumerate(table.rows)}
        numbers = {row: cell for row, cell in cells.items() if isinstance(cell, Number) and cell.defined}
        signed = name == "difference" or any((cell.low or cell.value) < 0 for cell in numbers.values())
        # A column may hold shares and distances: each kind has its own scale.
        for large in (False, True):
            kind = {row: cell for row, cell in numbers.items() if (max(_ends(cell)) > 1) is large}
            bars |= {
                (row, column): _bar(cell, _scale(list(kind.values()), signed=signed)) for row, cell in kind.items()
            }
    rows = [
        [
            {
                "kind": _kind(cell, table.columns[column]),
                "cell": cell,
                "text": cell_text(cell),
                "bar": bars.get((row, column)),
                "colour": swatches.get(str(cell)) if table.columns[column] == "class" else None,
            }
            for column, cell in enumerate(cells)
        ]
        for row, cells in enumerate(table.rows)
    ]
    return {"title": table.title, "columns": table.columns, "rows": rows, "note": table.note}


def _ends(number: Number) -> list[float]:
    return [abs(end) for end in (number.value, number.low, number.high) if end is not None]


def _kind(cell: Cell, column: str) -> str:
    if isinstance(cell, Number):
        return "measure"
    if column == "verdict" and isinstance(cell, str):
        return "shown" if " beats " in cell else "not-shown"
    return "plain"
