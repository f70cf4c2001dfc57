"""Shares between proportional and equal ones."""

import pytest
from pydantic import ValidationError

from topwork_plugins.samplers.temperature import TemperatureConfig

SIZES = {"large": 1000, "small": 10}


def ratio(config: TemperatureConfig, epoch: int = 1) -> float:
    shares = config.shares(SIZES, epoch)
    return shares["large"] / shares["small"]


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 100.0), (2.0, 10.0), (4.0, 100**0.25), (1e9, 1.0)])
def test_a_source_of_n_rows_has_the_share_of_the_root_of_n(temperature: float, expected: float) -> None:
    assert ratio(TemperatureConfig(temperature=temperature)) == pytest.approx(expected)


def test_a_cooldown_ends_in_proportional_shares() -> None:
    config = TemperatureConfig(temperature=3.0, cooldown=4)
    ratios = [ratio(config, epoch) for epoch in range(1, 8)]
    assert ratios[:5] == pytest.approx([100 ** (1 / temperature) for temperature in (3.0, 2.5, 2.0, 1.5, 1.0)])
    assert ratios[5:] == pytest.approx([100.0, 100.0])


def test_without_a_cooldown_the_shares_stay() -> None:
    assert ratio(TemperatureConfig(), 1) == ratio(TemperatureConfig(), 1000)


def test_a_low_temperature_does_not_overflow() -> None:
    assert TemperatureConfig(temperature=1e-3).shares({"a": 10**9, "b": 1}, 1) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), True, "2"], ids=repr)
def test_a_temperature_is_a_finite_number_above_0(value: object) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        TemperatureConfig(temperature=value)
