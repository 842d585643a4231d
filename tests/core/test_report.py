import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.errors import Exit, HistillError
from histill.core.report import Number, Report, Table

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def numbers(draw):
    value = draw(st.one_of(floats, st.just(math.nan), st.integers(0, 10**9)))
    ends = draw(st.one_of(st.none(), st.tuples(floats, floats)))
    return Number(value, draw(st.integers(0, 10**6)), *(sorted(ends) if ends else ()))


cells = st.one_of(st.none(), st.text(max_size=8), st.integers(-(2**53), 2**53), floats, numbers())


@st.composite
def reports(draw):
    width = draw(st.integers(1, 3))
    rows = draw(st.lists(st.tuples(*[cells] * width), max_size=3))
    return Report(
        title=draw(st.text(max_size=8)),
        numbers=draw(st.dictionaries(st.text(max_size=8), numbers(), max_size=4)),
        tables=(Table("t", tuple("abc"[:width]), tuple(rows), draw(st.text(max_size=8))),),
        warnings=tuple(draw(st.lists(st.text(max_size=8), max_size=2))),
        settings=draw(st.dictionaries(st.text(max_size=4), st.integers(), max_size=2)),
    )


@settings(max_examples=40, deadline=None)
@given(reports())
def test_json_read_and_written_again_is_the_same_text(report):
    text = report.to_json()
    again = Report.from_json(text)
    assert again.to_json() == text
    assert list(again.numbers) == list(report.numbers)
    assert again.warnings == report.warnings
    assert again.title == report.title


def test_json_has_null_for_nan_and_six_digits():
    report = Report("r", {"b": Number(math.nan, 0), "a": Number(2 / 3, 3, -1e-9, 123456.789), "c": Number(7, 9)})
    document = json.loads(report.to_json())
    assert list(document["numbers"]) == ["b", "a", "c"]
    assert document["numbers"]["b"] == {"value": None, "n": 0}
    assert document["numbers"]["a"] == {"value": 0.666667, "n": 3, "low": -1e-9, "high": 123457.0}
    assert '"value": 7,' in report.to_json()
    assert not Report.from_json(report.to_json()).numbers["b"].defined


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(0.7312, 10, 0.7018, 0.7604), "0.731 [0.702, 0.760]"),
        (Number(-0.04, 10, -0.061, 0.0012), "-0.040 [-0.061, 0.001]"),
        (Number(9.876, 10, 8.1, 11.26), "9.9 [8.1, 11.3]"),
        (Number(2.345, 1), "2.35"),
        (Number(62, 62), "62"),
        (Number(1.0, 62), "1.000"),
        (Number(math.nan, 0), "\N{EM DASH}"),
    ],
)
def test_number_as_text(number, text):
    # 2.345 is stored as a little more than that.
    assert str(number) == text


@pytest.mark.parametrize("ends", [(0.3, None), (None, 0.3), (0.5, 0.3), (math.nan, 0.3), (0.3, math.inf)])
def test_an_interval_has_two_ordered_finite_ends(ends):
    with pytest.raises(ValueError, match="interval"):
        Number(0.4, 3, *ends)


def test_a_table_is_rectangular():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ("a", "b"), (("only one",),))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "other/1"}', '{"schema": "histill.report/1"}', '{"schema": "histill.report/1",'],
)
def test_other_json_is_refused(text):
    with pytest.raises(HistillError, match="not a histill report") as caught:
        Report.from_json(text, subject="report.json")
    assert caught.value.code == Exit.INPUT
    assert caught.value.subject == "report.json"
