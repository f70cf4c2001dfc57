"""Optuna's samplers and pruners, as a study names them."""

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from topwork.experiment.study import Study


def make_sampler(settings: Study, seed: int) -> BaseSampler:
    """Build the sampler. Trials that are still running count as poor ones, so that no two are alike."""
    seed %= 2**32
    if settings.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)  # a grid's points are given to it


def make_pruner(settings: Study, epochs: int) -> BasePruner:
    """Build the pruner for trials of at most ``epochs`` epochs, all seeds together."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=epochs)
    return optuna.pruners.NopPruner()
