"""Shares that are set."""

import pytest
from pydantic import ValidationError

from topwork_plugins.samplers.weighted import WeightedConfig


def test_the_shares_are_those_that_are_set_whatever_the_sizes() -> None:
    assert WeightedConfig(weights={"a": 2.0, "b": 1.0}).shares({"a": 1, "b": 1000}, 3) == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}])
def test_each_source_must_have_a_weight_and_no_other(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^weights must have a number for each source, a, b, but are of "):
        WeightedConfig(weights=weights).shares({"a": 1, "b": 1}, 1)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), True, "2"], ids=repr)
def test_a_weight_is_a_finite_number_above_0(value: object) -> None:
    with pytest.raises(ValidationError, match="weights"):
        WeightedConfig(weights={"a": value})
