import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from histill.core.labels import Classes
from histill.core.report import Number, Report, Table
from histill.report.html import Card, Figure, Section, to_html
from histill.report.pictures import jpeg, png

EVIL = '<script>alert("x")</script>&\'"><img src=http://evil.example/x onerror=y>'
PICTURE = np.zeros((4, 4, 3), np.uint8)


class Page(HTMLParser):
    """Collects what a page holds, and whether its tags nest."""

    VOID = ("meta", "img", "link", "br", "hr", "input", "rect")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def example(text="plain"):
    number = Number(0.73, 12, 0.7, 0.76)
    table = Table(
        text,
        ("class", "IoU", "difference", "verdict", text),
        (
            ("tumour", number, Number(0.04, 12, -0.01, 0.09), "not shown", text),
            (text, Number(math.nan, 0), Number(0.2, 12, 0.1, 0.3), "mlps beats cam", None),
        ),
        note=text,
    )
    report = Report(text, {"pooled/mIoU": number, text: Number(3, 3)}, (table,), (text,), {text: text})
    sections = [Section(text, f"{text}\n\n{text}", (Figure(text, text, png(PICTURE)),), (table,), Classes((text, "b")))]
    return to_html(
        report, [Figure(text, text, jpeg(PICTURE), wide=False)], sections,
        intro=text, cards=[Card(text, number, text)], classes=Classes(("tumour", "b")),
    )  # fmt: skip


def test_the_page_needs_nothing_from_elsewhere():
    page = Page(example())
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert sources
    assert all(re.match(r"data:image/(png|jpeg);base64,|#part-\d+$", source) for source in sources)
    assert "url(" not in example()
    assert "@import" not in example()
    assert "http" not in example().replace("http-equiv", "")
    policy = next(
        value for tag, name, value in page.attributes if tag == "meta" and name == "content" and "src" in value
    )
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_every_text_is_escaped_wherever_it_stands():
    plain, evil = Page(example()), Page(example(EVIL))
    assert evil.tags == plain.tags
    assert not any(name.startswith("on") for _, name, _ in evil.attributes)
    # The settings, two of them, are JSON: quotes have a backslash there.
    assert evil.text.count(EVIL) == plain.text.count("plain") - 2 >= 15


def test_warnings_come_before_numbers_and_numbers_before_tables():
    text = Page(
        to_html(
            Report("T", {"pooled/mIoU": Number(0.5, 4, 0.4, 0.6)}, (Table("Tab", ("a",), (("x",),)),), ("careful",))
        )
    ).text
    places = [text.index(word) for word in ("careful", "0.500", "Tab", "All 1 numbers")]
    assert places == sorted(places)


def test_cells_show_value_interval_verdict_and_colour():
    page = example()
    assert "<b>0.730</b> <span>[0.700, 0.760]</span>" in page
    assert '<span class="badge shown">mlps beats cam</span>' in page
    assert '<span class="badge not-shown">not shown</span>' in page
    assert 'fill="rgb(214,39,40)"' in page
    assert "<b>\N{EM DASH}</b>" in page


def bars(page):
    """Of each interval bar: low, width, and the place of zero if shown."""
    found = []
    for svg in re.findall(r'<svg class="bar".*?</svg>', page, re.S):
        low, width = re.search(r'class="range" x="([-\d.]+)" y="1.6" width="([-\d.]+)"', svg).groups()
        zero = re.search(r'class="zero" x="([-\d.]+)"', svg)
        found.append((float(low), float(width), zero and float(zero[1])))
    return found


def test_bars_stand_where_the_interval_stands():
    def page(*numbers, column="IoU"):
        return bars(
            to_html(Report("T", tables=(Table("t", ("class", column), tuple(("a", each) for each in numbers)),)))
        )

    assert page(Number(0.73, 12, 0.7, 0.76)) == [(70, pytest.approx(6), None)]
    assert page(Number(0.25, 12)) == [(25, 0, None)]
    assert page(Number(math.nan, 0)) == page(Number(4, 4)) == []
    # Signed: from -0.22 to 0.22, with a line at zero.
    assert page(Number(0.0, 9, -0.11, 0.2)) == [(25, pytest.approx(100 * 0.31 / 0.44, abs=0.01), 49.7)]
    assert page(Number(0.1, 9, 0.05, 0.2), column="difference")[0][2] == 49.7
    # Shares and distances in one column do not squeeze each other.
    assert page(Number(0.5, 9, 0.4, 0.6), Number(50.0, 9, 40.0, 100.0)) == [
        (40, pytest.approx(20), None), (pytest.approx(36.36), pytest.approx(54.55), None),
    ]  # fmt: skip


def test_an_empty_report_is_a_page():
    page = Page(to_html(Report("Nothing")))
    assert "Nothing" in page.text
    assert "table" not in page.tags
    assert "nav" not in page.tags


def test_the_same_report_gives_the_same_page():
    assert example() == example()


def test_a_figure_is_png_or_jpeg():
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        to_html(Report("T"), [Figure("f", "", b"<svg/>")])
