"""Tables for notebooks show numbers to the right, and texts as texts."""

from topwork.html import html_table


def test_a_table_has_a_caption_a_head_and_rows() -> None:
    made = html_table("two things", ("name", "#count"), [("a", 1), ("b", 2)])
    assert made.startswith('<table><caption style="text-align:left">two things</caption><thead><tr>')
    assert '<th style="text-align:right">count</th>' in made
    assert made.count("<tr>") == 3
    assert '<td style="text-align:left">b</td><td style="text-align:right">2</td>' in made


def test_texts_are_escaped() -> None:
    made = html_table("<x>", ("a & b",), [("<script>",)])
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    assert "a &amp; b" in made


def test_without_a_caption_there_is_none() -> None:
    assert "caption" not in html_table("", ("a",), [])
