"""Spellings become labels, by rules that a researcher sees and sets."""

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.label_column import LabelColumn
from topwork.data.labels import (
    Places,
    describe_changes,
    describe_similar,
    is_missing,
    normalize_label,
    read_label,
    read_number,
)
from topwork.errors import quote
from topwork.experiment.label_format import AS_WRITTEN, LabelFormat
from topwork.interfaces.labels import Classes

DEFAULT = LabelFormat()
RULES = st.builds(
    LabelFormat, strip=st.booleans(), casefold=st.booleans(), normalize=st.sampled_from([None, "NFC", "NFKC"])
)


def error(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def similar(*labels: str, rules: LabelFormat = DEFAULT) -> list[str]:
    locations = [f"a.csv:{row}" for row in range(2, 2 + len(labels))]
    return list(describe_similar("t", LabelColumn.of(labels, Classes), locations, rules))


@pytest.mark.parametrize(
    ("value", "label"), [("a", "a"), (1, "1"), (1.0, "1"), (-0.0, "0"), (1e300, str(int(1e300))), (True, "true")]
)
def test_a_label_is_text(value: object, label: str) -> None:
    assert read_label(value) == label


@pytest.mark.parametrize(
    ("value", "missing"), [(None, True), (float("nan"), True), ("", True), (" \t", True), ("0", False), (0, False)]
)
def test_a_cell_that_holds_nothing_has_no_label(value: object, missing: bool) -> None:
    assert is_missing(value, strip=True) == missing
    assert is_missing(value, strip=False) == (missing and value != " \t")


@pytest.mark.parametrize("value", [float("inf"), [], b"a", None])
def test_what_is_no_label_is_quoted(value: object) -> None:
    assert error(lambda: read_label(value)) == f"a label must be a text or a whole number, got {value!r}"


@pytest.mark.parametrize(
    ("value", "number"), [("3.80", 3.8), (" -1e-3 ", -0.001), (".5", 0.5), ("5.", 5.0), (4, 4.0), (0.25, 0.25)]
)
def test_a_number_may_be_written_as_text(value: object, number: float) -> None:
    assert read_number(value) == number


@pytest.mark.parametrize("value", ["", "1,5", "1_000", "nan", "inf", "1e999", "\u0661", float("inf"), True, None, [1]])
def test_what_is_no_number_is_quoted(value: object) -> None:
    assert error(lambda: read_number(value)) == f"a number is wanted, got {quote(value)}"


@pytest.mark.parametrize(
    ("label", "rules", "wanted"),
    [
        ("pos ", {}, "pos"),
        ("\u00a0pos\r\n", {}, "pos"),
        ("pos ", {"strip": False}, "pos "),
        ("cafe\u0301", {}, "caf\u00e9"),
        ("cafe\u0301", {"normalize": None}, "cafe\u0301"),
        ("Pos", {}, "Pos"),
        ("Pos", {"casefold": True}, "pos"),
        ("STRASSE", {"casefold": True}, "strasse"),
        ("straße", {"casefold": True}, "strasse"),
        ("E\u0301", {"casefold": True}, "\u00e9"),
        ("ﬁlm \uff11", {}, "ﬁlm \uff11"),
        ("ﬁlm \uff11", {"normalize": "NFKC"}, "film 1"),
        ("e-mail", {}, "e-mail"),
    ],
)
def test_a_label_is_spelt_as_the_rules_say(label: str, rules: dict[str, object], wanted: str) -> None:
    assert normalize_label(label, LabelFormat.model_validate(rules)) == wanted


@given(st.text(max_size=8), RULES)
def test_a_spelling_stands_for_itself(label: str, rules: LabelFormat) -> None:
    try:
        once = normalize_label(label, rules)
    except ValueError:
        return
    assert normalize_label(once, rules) == once


@given(st.text(max_size=8))
def test_by_default_composed_and_decomposed_labels_are_one(label: str) -> None:
    try:
        wanted = normalize_label(label, DEFAULT)
    except ValueError:
        return
    assert normalize_label(f" {unicodedata.normalize('NFD', label)}\t", DEFAULT) == wanted


@given(st.text(max_size=8))
def test_as_written_a_label_is_what_it_is_or_refused(label: str) -> None:
    try:
        assert normalize_label(label, AS_WRITTEN) == label
    except ValueError:
        assert not label or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "the label is empty"),
        (" \n", "the label is empty"),
        ("a\0", "a label must not hold a control character (U+0000), got 'a\\x00'"),
        ("\x1b[31mred", "a label must not hold a control character (U+001B), got '\\x1b[31mred'"),
        ("two\nlines", "a label must not hold a control character (U+000A), got 'two\\nlines'"),
        ("a\u2028b", "a label must not hold a line end (U+2028), got 'a\\u2028b'"),
        ("a\ud800b", "a label must not hold half a character (U+D800), got 'a\\ud800b'"),
        ("z" * 1001, f"a label has at most 1,000 characters, got 1,001: '{'z' * 57}...'"),
    ],
    ids=repr,
)
def test_what_cannot_name_a_class_is_refused(label: str, message: str) -> None:
    assert error(lambda: normalize_label(label, DEFAULT)) == message


def places(*locations: str) -> Places:
    found = Places()
    for location in locations:
        found.add(location)
    return found


def test_a_row_with_several_labels_is_one_place() -> None:
    found = places("a.csv:2", "a.csv:2", "a.csv:3", "a.csv:3", "a.csv:4", "a.csv:5")
    assert (str(found), found.rows, found.count) == ("a.csv:2, a.csv:3, a.csv:4 and 1 more", 4, 6)


def test_changes_are_told_with_counts_and_places() -> None:
    changes = {("pos ", "pos"): places(*(f"a.csv:{row}" for row in range(2, 8))), (" neg", "neg"): places("a.csv:9")}
    assert list(describe_changes("t", changes, 20)) == [
        "task t: 7 of 20 labels are read in another spelling, as tasks.t.labels says: "
        "'pos ' as 'pos' (a.csv:2, a.csv:3, a.csv:4 and 3 more), ' neg' as 'neg' (a.csv:9)"
    ]
    assert list(describe_changes("t", {}, 20)) == []


def test_of_many_changes_the_first_are_told_and_all_are_counted() -> None:
    changes = {(f"{number} ", f"{number}"): places("a.csv:2") for number in range(1000)}
    (warning,) = describe_changes("t", changes, 1000)
    assert warning.startswith("task t: 1,000 of 1,000 labels")
    assert warning.endswith("'4 ' as '4' (a.csv:2), and 995 more spellings")


@pytest.mark.parametrize(
    ("labels", "rules", "shown", "setting"),
    [
        (["Pos", "pos"], {}, ["'Pos'", "'pos'"], "{casefold: true}"),
        (["pos ", "pos"], {"strip": False}, ["'pos'", "'pos '"], "{strip: true}"),
        (["café", "cafe\u0301"], {"normalize": None}, ["'cafe\\u0301'", "'café'"], "{normalize: NFC}"),
        (["\uff11", "1"], {}, ["'1'", "'\\uff11'"], "{normalize: NFKC}"),
        (["\uff30os", "pos"], {}, ["'pos'", "'\\uff30os'"], "{strip: true, casefold: true, normalize: NFKC}"),
    ],
)
def test_classes_that_look_alike_are_told_with_what_makes_them_one(
    labels: list[str], rules: dict[str, object], shown: list[str], setting: str
) -> None:
    (warning,) = similar(*labels, rules=LabelFormat.model_validate(rules))
    assert [warning.count(label) for label in shown] == [1, 1]
    assert warning.endswith(f"; to make them one, set tasks.t.labels: {setting}")


@pytest.mark.parametrize("labels", [("pos", "pos\u200b"), ("1", "1.0"), ("very good", "very  good")])
def test_classes_that_no_rule_makes_one_are_to_be_written_alike(labels: tuple[str, str]) -> None:
    (warning,) = similar(*labels)
    assert warning.endswith("; where they should be one, write them alike in the file")


@pytest.mark.parametrize("labels", [("pos", "neg", "pos"), ("1", "01", "10"), ("C", "C++", "C#"), ("正面", "负面")])
def test_classes_that_differ_are_not_told_of(labels: tuple[str, ...]) -> None:
    assert similar(*labels) == []


def test_of_many_classes_that_look_alike_the_first_are_told() -> None:
    warnings = similar(*(f"{case}{number}" for number in range(100) for case in "Aa"))
    assert len(warnings) == 6
    assert warnings[-1] == "task t has 95 more groups of classes that look alike"
