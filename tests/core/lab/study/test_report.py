"""The best is the best, and the first of equals."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.lab.study.report import find_best, rank
from topwork.lab.study.result import State, Trial

VALUES = st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)), min_size=1, max_size=12)


def trial(number: int, *values: float, state: State = "complete") -> Trial:
    return Trial(number, state, {}, values)


@pytest.mark.parametrize(
    ("values", "rising", "best"),
    [([0.5, 0.7, 0.6], True, 1), ([0.5, 0.7, 0.6], False, 0), ([0.5, 0.7, 0.7], True, 1)],
)
def test_the_best_trial_is_the_first_with_the_best_value(values: list[float], rising: bool, best: int) -> None:
    assert find_best([trial(number, value) for number, value in enumerate(values)], [rising]) == [best]


def test_the_dust_of_float32_decides_nothing() -> None:
    assert find_best([trial(0, 0.4437499940395355), trial(1, 0.44375)], [True]) == [0]
    assert find_best([trial(0, 0.44374), trial(1, 0.44375)], [True]) == [1]


def test_a_trial_that_was_pruned_or_failed_is_never_the_best() -> None:
    trials = [trial(0, 0.9, state="pruned"), trial(1, state="failed"), trial(2, 0.1)]
    assert find_best(trials, [True]) == [2]
    assert [one.number for one in rank(trials, [True])] == [2, 0, 1]
    assert find_best(trials[:2], [True]) == []


@given(VALUES)
def test_the_front_is_what_nothing_beats_in_all_respects(values: list[tuple[float, float]]) -> None:
    trials: list[Any] = [trial(number, *pair) for number, pair in enumerate(values)]
    front = find_best(trials, [True, False])
    for number, (high, low) in enumerate(values):
        beaten = any(up >= high and down <= low and (up, down) != (high, low) for up, down in values)
        assert (number in front) == (not beaten)
    assert {one.number for one in rank(trials, [True, False])[: len(front)]} == set(front)
