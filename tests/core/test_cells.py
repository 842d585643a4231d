"""CSV in and out."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from histill.core.cells import RUN_BY_SPREADSHEETS, read_cells, write_cells

# What is stripped or not UTF-8 is not the text's own.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufffd")).map(str.strip)
nasty = st.sampled_from(
    ["=1+1", "'=1+1", "''=1", "'", "@SUM(A1)", "-3", "+a", "'a", 'a"b', "a,b", "a\nb", "a\rb", "a\r\nb", "ä"]
)


@given(st.lists(st.tuples(texts | nasty, texts | nasty), min_size=1).filter(lambda rows: all(any(row) for row in rows)))
def test_any_text_survives_and_no_spreadsheet_runs_it(rows: list[tuple[str, str]]) -> None:
    data = write_cells(["a", "b"], rows)
    header, read, faults = read_cells(data)
    assert faults == []
    assert header == ["a", "b"]
    assert [cells for _, cells in read] == [list(row) for row in rows]
    for row in csv.reader(io.StringIO(data.decode(), newline="")):
        assert not any(cell.startswith(RUN_BY_SPREADSHEETS) for cell in row)


def test_numbers_stay_numbers_and_texts_that_look_like_them_are_defused() -> None:
    data = write_cells(["a", "b", "c", "d"], [[-0.5, -3, "-3", "+1"]])
    assert data.splitlines()[1] == b"-0.5,-3,'-3,'+1"


def test_line_numbers_are_those_of_an_editor() -> None:
    header, rows, faults = read_cells(b'a,b\r\n1,2\r\n\r\n,\r\n"x\r\ny",3\r\n4,5')
    assert header == ["a", "b"]
    assert rows == [(2, ["1", "2"]), (6, ["x\r\ny", "3"]), (7, ["4", "5"])]
    assert faults == []


def test_every_fault_comes_with_its_line() -> None:
    data = "\ufeffa, b\n1\n1,2,3\n1, 2 \n".encode() + "ä,2\n".encode("latin-1") + b'3,4\n"open,'
    header, rows, faults = read_cells(data)
    assert header == ["a", "b"]
    assert rows == [(4, ["1", "2"]), (6, ["3", "4"])]
    assert faults == [
        "line 2: 1 cells under 2 columns",
        "line 3: 3 cells under 2 columns",
        "line 5: not UTF-8; save the table as UTF-8",
        "line 7: unexpected end of data",
    ]


def test_a_table_without_rows_is_a_fault() -> None:
    for data in (b"", b"a,b\n", b"a,b\n\n,\n"):
        assert read_cells(data)[2] == ["line 1: the table has no rows"]


def test_a_table_in_utf_16_is_a_fault() -> None:
    assert read_cells("a,b\n1,2\n".encode("utf-16"))[2]
