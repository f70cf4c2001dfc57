"""Patterns match whole segments of parameter names."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topwork_plugins.parameter_names import matches, near_miss

FFN = "backbone.transformer.layer.5.ffn.lin1.weight"
SEGMENTS = st.lists(st.text("ab1.", min_size=1, max_size=3).filter(lambda s: "." not in s), min_size=1, max_size=6)


@pytest.mark.parametrize(
    "pattern",
    [
        "layer.5.ffn",
        "ffn",
        "lin1.weight",
        "5",
        "layer.*.ffn",
        "*.5",
        "layer.5.*",
        "*",
        "backbone",
        FFN,
        "*.*.*.*.*.*.*",
    ],
)
def test_a_pattern_matches_segments_in_a_row(pattern: str) -> None:
    assert matches(pattern, FFN)


@pytest.mark.parametrize(
    "pattern",
    ["layer.5.ff", "ayer.5", "fn", "lin", "layer.ffn", "layer.5.lin1", "ffn.5", "lin*", "layer.6.ffn", "", "layer.5.",
     f"{FFN}.x", "*.*.*.*.*.*.*.*", "LAYER.5", "layer.[5]", "layer.**.lin1"],
)  # fmt: skip
def test_a_pattern_matches_nothing_less_than_that(pattern: str) -> None:
    assert not matches(pattern, FFN)


@given(SEGMENTS, st.data())
def test_every_run_of_segments_matches_with_any_of_them_starred(name: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(name) - 1))
    end = data.draw(st.integers(start + 1, len(name)))
    stars = data.draw(st.lists(st.booleans(), min_size=end - start, max_size=end - start))
    pattern = ["*" if star else segment for star, segment in zip(stars, name[start:end], strict=True)]
    assert matches(".".join(pattern), ".".join(name))


@pytest.mark.slow
@given(SEGMENTS, SEGMENTS)
def test_a_pattern_without_stars_matches_like_a_dotted_substring(pattern: list[str], name: list[str]) -> None:
    wanted, text = f".{'.'.join(pattern)}.", f".{'.'.join(name)}."
    assert matches(".".join(pattern), ".".join(name)) == (wanted in text)


@given(st.integers(0, 11), st.integers(0, 11))
def test_a_layers_number_never_matches_that_of_another(asked: int, layer: int) -> None:
    assume(asked != layer)
    assert not matches(f"layer.{asked}", f"backbone.layer.{layer}.weight")


def test_what_may_have_been_meant_has_as_many_segments() -> None:
    assert near_miss("layer.5.fnn", [FFN]) == "; did you mean layer.5.ffn?"
    assert near_miss("classifier", [FFN]) == ""
