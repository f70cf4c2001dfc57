"""What Optuna sees of the searched settings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from topwork.experiment.search import ParamValue, SearchedSetting
from topwork.experiment.study import StudySettings


def suggest(trial: optuna.Trial, searched: SearchedSetting) -> ParamValue:
    """Choose a value of one setting for a trial."""
    dimension = searched.dimension
    if dimension.choices is not None:
        chosen: ParamValue = trial.suggest_categorical(searched.name, list(searched.labels))
        return chosen
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None and high is not None
    if searched.integer:
        return trial.suggest_int(searched.name, int(low), int(high), step=int(step or 1), log=dimension.log)
    return trial.suggest_float(searched.name, low, high, step=step, log=dimension.log)


def values_of(params: Mapping[str, Any], search: Sequence[SearchedSetting]) -> dict[str, Any]:
    """Return the values of a trial by path."""
    return {searched.path: searched.value(params[searched.name]) for searched in search}


def with_logarithms(params: Mapping[str, Any], search: Sequence[SearchedSetting]) -> dict[str, Any]:
    """Add the decimal logarithm of each setting that is searched on a logarithmic scale, as ``<name>.log10``.

    MLflow draws parallel coordinates and scatter plots on linear scales only.
    """
    logarithms = {
        f"{searched.name}.log10": math.log10(params[searched.name]) for searched in search if searched.dimension.log
    }
    return {**params, **logarithms}


def count_points(search: Sequence[SearchedSetting]) -> int | None:
    """How many combinations of values there are; None where a setting has values without end."""
    counts = [searched.count for searched in search]
    return None if None in counts else math.prod(count for count in counts if count)


def count_trials(settings: StudySettings, search: Sequence[SearchedSetting]) -> int:
    """How many trials count at the end of a study: no more than there are combinations of values."""
    points = count_points(search)
    return settings.trials if points is None else min(settings.trials, points)
