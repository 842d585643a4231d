import math

from histill.core.report import Number, Report, Table
from histill.report.markdown import to_markdown


def test_a_report_as_markdown_to_the_letter():
    report = Report(
        "One | two",
        {"pooled/mIoU": Number(0.73, 12, 0.7, 0.76)},
        (
            Table(
                "Scores",
                ("class", "IoU", "n"),
                (("a|b\nc", Number(0.73, 12, 0.7, 0.76), 3), ("*d*", Number(math.nan, 0), None)),
                "A note.",
            ),
        ),
        ("look <here>",),
        {"seed": 0},
    )
    assert to_markdown(report) == (
        "# One \\| two\n\n"
        "> **Warning:** look \\<here\\>\n\n"
        "## Scores\n\n"
        "| class | IoU | n |\n| --- | --- | --- |\n"
        "| a\\|b c | 0.730 [0.700, 0.760] | 3 |\n"
        "| \\*d\\* | \N{EM DASH} | \N{EM DASH} |\n\n"
        "A note.\n\n"
        '## Settings\n\n```json\n{\n "seed": 0\n}\n```\n'
    )


def test_a_report_without_tables_lists_its_numbers():
    report = Report("r", {"a": Number(0.5, 4), "b": Number(7, 9)})
    assert (
        to_markdown(report) == "# r\n\n| measure | value | n |\n| --- | --- | --- |\n| a | 0.500 | 4 |\n| b | 7 | 9 |\n"
    )
