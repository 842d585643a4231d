"""A report as Markdown: for a terminal, a README or a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from histill.core.report import NOT_A_NUMBER, Cell, Number, Report, Table


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown: warnings, tables, and at the end all numbers and settings."""
    parts = [f"# {_inline(report.title)}"]
    if report.warnings:
        parts.append("\n>\n".join(f"> **Warning:** {_inline(warning)}" for warning in report.warnings))
    parts += [_table(table) for table in report.tables]
    if report.numbers and not report.tables:
        parts.append(
            _grid(("measure", "value", "n"), ((name, number, number.n) for name, number in report.numbers.items()))
        )
    if report.settings:
        settings = json.dumps(report.settings, indent=1, ensure_ascii=False)
        parts.append(f"## Settings\n\n```json\n{settings}\n```")
    return "\n\n".join(parts) + "\n"


def cell_text(cell: Cell) -> str:
    """One cell as a reader sees it, such as ``0.731 [0.702, 0.760]``."""
    if cell is None:
        return NOT_A_NUMBER
    return str(Number(cell, 0)) if isinstance(cell, float) else str(cell)


def _table(table: Table) -> str:
    note = f"\n\n{_inline(table.note)}" if table.note else ""
    return f"## {_inline(table.title)}\n\n{_grid(table.columns, table.rows)}{note}"


def _grid(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that stays on its line and in its cell, and is no markup."""
    text = " ".join(text.split())
    for mark in "\\|*`<>":
        text = text.replace(mark, f"\\{mark}")
    return text
