"""Encode what trials share before any of them trains: each text once, for all cuts that the study searches."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from topwork.engine.encoding.store_decision import EncodingJob
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import ConfigurationError
from topwork.lab.study.resolved_study import ResolvedStudy

#: The sections that decide what is kept of a text, for one backbone.
SECTIONS = ("freeze", "pooling")

#: Of so many combinations of their values at most the cuts are looked up beforehand.
MAX_COMBINATIONS = 64


def encode_ahead(study: ResolvedStudy, baseline: Preparation, cache: PreparationCache, observer: Observer) -> float:
    """Encode what the store is to have, with all threads, before workers of one thread want it; return the seconds.

    Args:
        baseline: the experiment with its own values.

    Raises:
        StorageError: the store holds something else, or is required and cannot serve.
    """
    slurm = study.settings.slurm
    if slurm and slurm.gpus and not torch.cuda.is_available():
        return 0.0  # what a CPU gives is not what GPUs give; of the jobs one encodes a text, and the others wait for it
    device = make_accelerator(baseline.experiment.training).device
    cuts = list(searched_cuts(study))
    jobs = list(jobs_of_cuts(study, cuts, cache, device))
    for values in ({}, *cuts):
        if cuts:
            with suppress(ConfigurationError):  # values that do not fit together fail as a trial, which says so
                baseline = cache.prepare(study.trial_experiment(values))
        phase = baseline.plan.phases[0]
        baseline.model.to(device)
        if baseline.decide_store(phase, device).store is not None:
            _, report = cache.load_examples(baseline, phase, device, observer, jobs)
            observer.encoded(report)
            return report.seconds
    return 0.0  # nothing that workers could share


def jobs_of_cuts(
    study: ResolvedStudy, cuts: Sequence[Mapping[str, Any]], cache: PreparationCache, device: torch.device
) -> Iterator[EncodingJob]:
    """Yield what decides the activations of all phases of the searched cuts, of one backbone without adapters."""
    for values in cuts:
        with suppress(ConfigurationError):
            varied = study.trial_experiment(values)
            if not varied.freeze.adapts_backbone:
                yield from cache.prepare(varied).encoding_jobs(device)


def searched_cuts(study: ResolvedStudy) -> Iterator[dict[str, Any]]:
    """Yield the combinations of the searched values that decide what is kept of a text, by path.

    None where none is searched, or where there are too many.
    """
    searched = [one for one in study.search if one.path.split(".")[0] in SECTIONS]
    counts = [one.count for one in searched]
    if not searched or None in counts or math.prod(count for count in counts if count) > MAX_COMBINATIONS:
        return
    for values in itertools.product(*(one.values for one in searched)):
        yield {one.path: value for one, value in zip(searched, values, strict=True)}
