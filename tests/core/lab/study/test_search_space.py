"""What Optuna sees of the searched settings, and what comes back of it."""

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from queue_helpers import GRID, GRID_BASELINE, RATES, searched, settings
from topwork.experiment.search import SearchedSetting
from topwork.experiment.study import Dimension
from topwork.lab.study.search_space import count_points, count_trials, suggest, values_of, with_logarithms

SECTION = {"kind": "last_layers", "count": 2}


def setting(*, integer: bool = False, **dimension: Any) -> SearchedSetting:
    return SearchedSetting("a.b", "b", Dimension(**dimension), integer, None)


@pytest.mark.parametrize(
    ("one", "distribution"),
    [
        (setting(low=1e-4, high=1e-1, log=True), FloatDistribution(1e-4, 1e-1, log=True)),
        (setting(low=0.0, high=0.5), FloatDistribution(0.0, 0.5)),
        (setting(low=0.0, high=0.5, step=0.1), FloatDistribution(0.0, 0.5, step=0.1)),
        (setting(low=1, high=9), FloatDistribution(1, 9)),
        (setting(low=1, high=9, integer=True), IntDistribution(1, 9)),
        (setting(low=1, high=9, step=2, integer=True), IntDistribution(1, 9, step=2)),
        (setting(low=1, high=64, log=True, integer=True), IntDistribution(1, 64, log=True)),
        (setting(choices=["cls", True, None, 3]), CategoricalDistribution(("cls", True, None, 3))),
        (
            setting(choices=[SECTION, ["a", "b"]]),
            CategoricalDistribution(('{"kind": "last_layers", "count": 2}', '["a", "b"]')),
        ),
    ],
)
def test_a_setting_is_searched_as_it_is_written(one: SearchedSetting, distribution: BaseDistribution) -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    value = suggest(trial, one)
    assert trial.distributions == {"b": distribution}
    assert trial.params == {"b": value}
    assert isinstance(value, int) or not one.integer


def test_the_values_of_a_trial_are_given_by_path_and_choices_as_they_were_written() -> None:
    freeze = SearchedSetting("freeze", "freeze", Dimension(choices=[SECTION, {"kind": "all"}]), False, None)
    rate = searched(RATES, {"heads_lr": 1e-3, "backbone_lr": 1e-5})[0]
    params = {"freeze": '{"kind": "last_layers", "count": 2}', "heads_lr": 0.01}
    assert values_of(params, [freeze, rate]) == {"freeze": SECTION, "x.heads_lr": 0.01}


def test_a_setting_on_a_logarithmic_scale_has_its_logarithm_beside_it() -> None:
    search = [*searched({"heads_lr": RATES["heads_lr"]}, {"heads_lr": 1e-3}), *searched(GRID, GRID_BASELINE)]
    logged = with_logarithms({"heads_lr": 0.02, "depth": 2, "pooling": "cls"}, search)
    assert logged == {"heads_lr": 0.02, "depth": 2, "pooling": "cls", "heads_lr.log10": math.log10(0.02)}
    assert 10 ** logged["heads_lr.log10"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("sampler", "trials", "count"), [("random", 100, 6), ("grid", 100, 6), ("grid", 6, 6), ("tpe", 5, 5)]
)
def test_a_study_has_no_more_trials_than_points(sampler: str, trials: int, count: int) -> None:
    section = settings(search={f"x.{name}": one for name, one in GRID.items()}, sampler=sampler, trials=trials)
    assert count_trials(section, searched(GRID, GRID_BASELINE)) == count


def test_the_steps_of_a_grid_are_counted_without_rounding_any_away() -> None:
    fractions = {"dropout": Dimension(low=0.1, high=0.7, step=0.1)}
    section = settings(search={"x.dropout": fractions["dropout"]}, sampler="grid", trials=100)
    assert count_trials(section, searched(fractions, {"dropout": 0.3})) == 7


def test_values_without_end_have_combinations_without_end() -> None:
    assert count_points(searched(GRID, GRID_BASELINE)) == 6
    both = [*searched(GRID, GRID_BASELINE), *searched(RATES, {"heads_lr": 1e-3, "backbone_lr": 1e-5})]
    assert count_points(both) is None
    assert count_trials(settings(trials=7), both) == 7
