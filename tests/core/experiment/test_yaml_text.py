"""YAML is read as plain values with the place of every key, and what other readers pass over is refused."""

from pathlib import Path

import pytest

from topwork.experiment.yaml_text import MAX_CHARACTERS, MAX_DEPTH, NotYamlError, Place, read_yaml


def refusal(text: str) -> tuple[Place, str]:
    """Where a text is refused, and why."""
    with pytest.raises(NotYamlError) as caught:
        read_yaml(text)
    return caught.value.place, str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("2E-5", 2e-5),
        ("007", 7),
        ("1_000", 1000),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("# nothing", None),
        ("2026-11-26", "2026-11-26"),
        ("2026-11-26 10:30:00", "2026-11-26 10:30:00"),
        ("!!str 1", "1"),
        ("'5'", "5"),
        ("[a, 1, {b: 2}]", ["a", 1, {"b": 2}]),
    ],
)
def test_values_are_plain(text: str, value: object) -> None:
    read = read_yaml(text).value
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y"])
def test_a_word_that_older_yaml_took_for_a_truth_value_stays_text(word: str) -> None:
    assert read_yaml(f"name: {word}").value == {"name": word}


@pytest.mark.parametrize("truth", [True, False])
def test_a_truth_value_may_be_shared_by_an_anchor(truth: bool) -> None:
    assert read_yaml(f"a: &it {str(truth).lower()}\nb: *it\n").value == {"a": truth, "b": truth}


def test_keys_may_be_merged() -> None:
    assert read_yaml("a: &it {b: 1}\nc: {<<: *it, d: 2}\n").value == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


def test_a_key_of_its_own_goes_before_one_that_is_merged_and_the_first_of_those_before_others() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\n"
    read = read_yaml(text)
    assert isinstance(read.value, dict)
    assert read.value["c"] == {"x": 3, "y": 1, "z": 2}
    assert (read.places["c", "x"], read.places["c", "z"]) == ((3, 19), (2, 14))


def test_what_an_alias_repeats_is_a_copy() -> None:
    value = read_yaml("a: &it {b: [1]}\nc: *it\n").value
    assert isinstance(value, dict)
    value["a"]["b"][0] = 2
    assert value["c"] == {"b": [1]}


def test_a_key_is_the_word_that_stands_there() -> None:
    assert read_yaml("1: a\ntrue: b\nnull: c\n2026-11-26: d\n").value == {
        "1": "a",
        "true": "b",
        "null": "c",
        "2026-11-26": "d",
    }


def test_every_key_and_every_item_has_its_place() -> None:
    text = "a: 1\nb:\n  - c\n  - d: [e, f]\n"
    assert read_yaml(text).places == {
        (): (1, 1),
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "d"): (4, 5),
        ("b", 1, "d", 0): (4, 9),
        ("b", 1, "d", 1): (4, 12),
    }


def test_what_an_anchor_repeats_has_the_place_where_it_is_written() -> None:
    places = read_yaml("a: &it {b: 1}\nc: *it\n").places
    assert places["a", "b"] == places["c", "b"] == (1, 9)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "key a occurs twice, first in line 1; keep one"),
        ("a:\n  b: 1\n  b: 1\n", (3, 3), "key b occurs twice, first in line 2; keep one"),
        ("name: &a [*a]\n", (1, 7), "not valid YAML: an anchor contains itself"),
        ("? [a, b]\n: 1\n", (1, 3), "not valid YAML: a key must be a word"),
        ("name: !env HOME\n", (1, 7), "not valid YAML: the tag !env is not allowed; write plain values"),
        ("a: !defaults {b: 3}\n", (1, 4), "not valid YAML: the tag !defaults is not allowed; write plain values"),
        ("a: !!set {b, c}\n", (1, 4), "not valid YAML: the tag !!set is not allowed; write plain values"),
        ("a: !!binary aGk=\n", (1, 4), "not valid YAML: the tag !!binary is not allowed; write plain values"),
        ("- !x 1\n", (1, 3), "not valid YAML: the tag !x is not allowed; write plain values"),
        ("? !x a\n: 1\n", (1, 3), "not valid YAML: the tag !x is not allowed; write plain values"),
        ("a: !!map 3\n", (1, 4), "not valid YAML: the tag !!map is not allowed; write plain values"),
        ("a: !!str [b]\n", (1, 4), "not valid YAML: the tag !!str is not allowed; write plain values"),
        ("a: !!int x\n", (1, 4), "not valid YAML: 'x' is no !!int"),
        ("a: !!bool 3\n", (1, 4), "not valid YAML: '3' is no !!bool"),
        ("a: &x 1\nb: &x 2\n", (2, 4), "anchor x occurs twice; keep one"),
        ("<<: 3\n", (1, 5), "not valid YAML: << takes a mapping, or a list of some"),
        (
            "%YAML 1.1\n---\na: no\n",
            (1, 1),
            "not valid YAML: a directive is not allowed; remove the line that begins with %",
        ),
    ],
    ids=[
        "twice",
        "twice inside",
        "recursive anchor",
        "a key of several",
        "tag",
        "tag on a section",
        "set",
        "bytes",
        "tag in a list",
        "tag of a key",
        "word as a mapping",
        "list as a word",
        "word as a number",
        "number as a truth value",
        "anchor twice",
        "merge of a word",
        "directive",
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_place_and_reason(text: str, place: Place, reason: str) -> None:
    assert refusal(text) == (place, reason)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: [small\ndata: 3\n", (2, 5)),
        ("name: small\n\tdata: 3\n", (2, 1)),
        ("name: *nobody\n", (1, 7)),
        ("name: a\n---\nname: b\n", (2, 1)),
        ("name: a\nnote: \x01\n", (2, 7)),
    ],
    ids=["open bracket", "tab", "unknown anchor", "two documents", "control character"],
)
def test_what_is_no_yaml_is_refused_with_its_place(text: str, place: Place) -> None:
    found, reason = refusal(text)
    assert found == place
    assert reason.startswith("not valid YAML: ")
    assert "<file>" not in reason


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [created]",
        "!!python/object/apply:os.mkdir ['created']",
        "!!python/name:os.mkdir x",
        "!!python/object/new:os.mkdir {args: [created]}",
    ],
)
def test_a_tag_is_refused_and_never_run(tmp_path: Path, value: str) -> None:
    place, reason = refusal(f"name: {value}")
    assert place == (1, 7)
    assert value.split()[0].lstrip("!") in reason
    assert not (tmp_path / "created").exists()


ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
)
DEEP = f"sections and lists stand inside each other more than {MAX_DEPTH} deep"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (ALIASES, (1, 10), "it has more than 50,000 values, aliases written out"),
        ("".join(f"{'  ' * level}k:\n" for level in range(500)), (51, 101), DEEP),
        ("name: " + "[" * 5000 + "]" * 5000, (1, 56), DEEP),
        ("a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40, (1, 16), DEEP),
        ("k" * 1_000_000 + ": 1\n", (1, 1), f"it has 1,000,004 characters, and may have at most {MAX_CHARACTERS:,}"),
        ("k" * 1000 + ": [", (1, 1004), "not valid YAML: "),
        (
            "k" * 900 + ": 1\n" + "k" * 900 + ": 2\n",
            (2, 1),
            f"key {'k' * 57}... occurs twice, first in line 1; keep one",
        ),
        ("a: " + "9" * 40, (1, 4), f"a whole number must fit 64 bits, got {'9' * 40}"),
        ("a: -" + "9" * 5000, (1, 4), f"a whole number must fit 64 bits, got -{'9' * 56}..."),
        ("a: 0x" + "f" * 17, (1, 4), f"a whole number must fit 64 bits, got 0x{'f' * 17}"),
    ],
    ids=["aliases", "maps", "lists", "aliases in depth", "key", "open", "keys", "digits", "more digits", "hexadecimal"],
)
def test_what_is_too_much_is_refused_at_once(text: str, place: Place, reason: str) -> None:
    found, why = refusal(text)
    assert found == place
    assert why.startswith(reason)
    assert len(why) < 200


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_a_whole_number_has_64_bits(number: int) -> None:
    assert read_yaml(f"a: {number}").value == {"a": number}


def test_what_is_as_deep_as_may_be_is_read() -> None:
    value = read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH).value
    for _ in range(MAX_DEPTH - 1):
        assert isinstance(value, list)
        (value,) = value
    assert value == []
