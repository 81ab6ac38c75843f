"""A table as a page says what the table says, whatever is in its cells."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd

from terse.figures.tables import page


class Cells(HTMLParser):
    """Reads a page's title and cells back."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.title = ""
        self.tags: set[str] = set()
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "wbr":
            return
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.rows[-1][-1] += data
        elif self._inside == "title":
            self.title += data


def test_numbers_have_four_digits_and_gaps_are_dashes() -> None:
    table = pd.DataFrame(
        {
            "run": ["base", None],
            "layer": pd.array([3, None], dtype="Int64"),
            "mean": [1.23456789, np.nan],
            "n": [1200000, 0],
        }
    )
    found = Cells(page(table, "Scores"))
    assert found.title == "Scores"
    assert found.rows == [
        ["run", "layer", "mean", "n"],
        ["base", "3", "1.235", "1200000"],
        ["–", "–", "–", "0"],
    ]


def test_what_looks_like_html_is_text() -> None:
    evil = '<script>alert("x")</script> & Co'
    table = pd.DataFrame({evil: [evil], "b": [1]})
    text = page(table, evil)
    found = Cells(text)
    assert found.rows == [[evil, "b"], [evil, "1"]]
    assert found.title == evil
    assert "script" not in found.tags
    assert "<script" not in text


def test_text_is_left_and_numbers_are_right() -> None:
    text = page(pd.DataFrame({"name": ["a"], "value": [1.0]}), "t")
    assert "<th class=text>name</th><th>value</th>" in text
    assert "<td class=text>a</td><td>1</td>" in text


def test_a_long_text_that_all_rows_share_stands_once() -> None:
    shared = "64 windows of the validation documents of <b>"
    table = pd.DataFrame({"way": ["full", "none"], "targets": shared, "flag": ["", "x" * 40]})
    text = page(table, "t")
    assert Cells(text).rows == [["way", "flag"], ["full", ""], ["none", "x" * 40]]
    assert "<p>targets: 64 windows of the validation documents of &lt;b&gt;</p>" in text
    assert '<td class="text long">xxx' in text
    assert Cells(page(table[:1], "t")).rows[0] == ["way", "targets", "flag"]  # nothing is shared


def test_a_head_may_be_broken_after_an_underscore() -> None:
    text = page(pd.DataFrame({"bits_per_byte": [1.0]}), "t")
    assert "<th>bits_<wbr>per_<wbr>byte</th>" in text
    assert Cells(text).rows[0] == ["bits_per_byte"]


def test_an_empty_table_is_still_a_page() -> None:
    assert Cells(page(pd.DataFrame(), "Nothing selected")).title == "Nothing selected"
