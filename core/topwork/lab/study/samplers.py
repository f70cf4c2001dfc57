"""Optuna's samplers and pruners, as a study names them."""

import warnings
from collections.abc import Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler
from optuna.trial import FrozenTrial, TrialState

from topwork.experiment.study import StudySettings


class AskTellBruteForceSampler(BruteForceSampler):
    """Optuna's exhaustive search, for trials that are asked for one by one."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the caller stop when all points are tried; Optuna's own stops the loop of ``Study.optimize``."""


def make_sampler(settings: StudySettings, seed: int, *, exhaustive: bool = False) -> BaseSampler:
    """Build the sampler. Trials that are still running count as poor ones, so that no two are alike.

    Args:
        exhaustive: draw among the points that no trial has, whatever the settings say.
    """
    seed %= 2**32
    if settings.sampler == "grid" or exhaustive:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return AskTellBruteForceSampler(seed=seed)
    if settings.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(settings: StudySettings, epochs: int) -> BasePruner:
    """Build the pruner for trials of at most ``epochs`` epochs, all seeds together."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=epochs)
    return optuna.pruners.NopPruner()
