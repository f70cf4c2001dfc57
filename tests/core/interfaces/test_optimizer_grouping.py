"""A parameter group is a plain value; the settings of a grouping make some."""

import dataclasses

import pytest

from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig, ParameterGroup


def test_groups_of_the_same_parameters_and_rates_are_equal() -> None:
    group = ParameterGroup("heads", ("a", "b"), 1e-3, 0.01)
    assert group == ParameterGroup("heads", ("a", "b"), 1e-3, 0.01)
    assert group != dataclasses.replace(group, learning_rate=1e-4)


def test_a_group_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ParameterGroup("heads", (), 1e-3, 0.01).learning_rate = 1.0  # type: ignore[misc]  # what is tested


def test_the_settings_of_an_optimizer_grouping_make_groups() -> None:
    assert OptimizerGroupingConfig.__abstractmethods__ == {"groups"}
