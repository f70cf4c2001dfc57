"""Train one trial and evaluate it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any

from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.comparison import SplitOutputs, stack_seeds
from topwork.engine.model.plan import Phase
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.loop import Fit
from topwork.errors import TrainingError
from topwork.experiment.objective import Objective
from topwork.experiment.source import SplitName
from topwork.lab.study.resolved_study import VALIDATION, ResolvedStudy

#: Called with a step, the number of an epoch from 1, or of later seeds that plus ``max_epochs`` for each seed before,
#: so that equal steps of two trials mean the same; with its validation metrics, with the objectives so far, and with
#: whether it is of a trial that was interrupted, and told again.
OnEpoch = Callable[[int, Mapping[str, float], Sequence[float], bool], None]

#: Returns the checkpoints of a training.
GetCheckpoints = Callable[[Preparation], Checkpoints]


@dataclass(frozen=True)
class TrialOutcome:
    """What came of a trial.

    Attributes:
        values: of the objectives, the mean over seeds.
        outputs: of the models, for the test rows; None where there are none.
        training_seconds: spent in the training loop, evaluation included.
        notes: what the researcher should know of it.
    """

    values: list[float]
    outputs: SplitOutputs | None
    training_seconds: float
    notes: list[str]


def train_trial(
    cache: PreparationCache,
    study: ResolvedStudy,
    values: Mapping[str, Any],
    *,
    check: Callable[[], None],
    on_epoch: OnEpoch,
    get_checkpoints: GetCheckpoints = lambda prepared: Checkpoints(),
) -> TrialOutcome:
    """Train an experiment with other values, as ``topwork train`` would, once with each seed.

    Args:
        values: by path.
        check: is called at least once a batch, and may raise to stop.
        on_epoch: is called after every epoch, and may raise to stop.
        get_checkpoints: gives those from which the training with a seed goes on; there are none by default.

    Raises:
        TopworkError: the values do not fit together, or training diverged.
    """
    finished: list[list[float]] = []
    outputs: list[SplitOutputs] = []
    notes: list[str] = []
    seconds = 0.0
    for number, seed in enumerate(study.seeds):
        varied = study.trial_experiment(values, seed)

        def report(epoch: Epoch, again: bool, done: int = number * study.max_epochs) -> None:
            metrics = validation_metrics(epoch.metrics)
            so_far = [*finished, [objective.evaluate(metrics) for objective in study.objectives]]
            on_epoch(done + epoch.number, metrics, [fmean(column) for column in zip(*so_far, strict=True)], again)

        prepared = cache.prepare(varied)
        started = perf_counter()
        fitted, loading_seconds = _fit(cache, prepared, TrialObserver(check, report), get_checkpoints(prepared))
        seconds += perf_counter() - started - loading_seconds
        notes += [f"seed {seed}: {note}" if len(study.seeds) > 1 else note for note in fitted.notes]
        finished.append([_finite(objective, fitted) for objective in study.objectives])
        if "test" in fitted.data:
            device = next(prepared.model.parameters()).device
            of_test = prepared.outputs(fitted.data["test"], device=device)
            outputs.append(prepared.split_outputs("test", of_test, fitted.data["test"]))
    means = [fmean(column) for column in zip(*finished, strict=True)]
    return TrialOutcome(means, stack_seeds(outputs) if outputs else None, seconds, notes)


class TrialObserver(Observer):
    """Calls back often enough that training can be stopped."""

    def __init__(self, check: Callable[[], None], report: Callable[[Epoch, bool], None]) -> None:
        self.check = check
        self.report = report

    def begin(self, phase: str, total: int) -> None:
        self.check()

    def advance(self, done: int) -> None:
        self.check()

    def encoded(self, report: EncodingReport) -> None:
        self.check()

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        for epoch in epochs:
            self.report(epoch, True)

    def epoch(self, epoch: Epoch) -> None:
        self.report(epoch, False)


def validation_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an epoch that objectives name, by the names that they use."""
    return {name.removeprefix(VALIDATION): value for name, value in metrics.items() if name.startswith(VALIDATION)}


def _fit(
    cache: PreparationCache, prepared: Preparation, observer: Observer, checkpoints: Checkpoints
) -> tuple[Fit, float]:
    """Train, and say how many seconds went into loading examples."""
    settings = prepared.experiment.training
    accelerator = make_accelerator(settings)
    seconds = 0.0

    def load_examples(phase: Phase) -> dict[SplitName, Examples]:
        nonlocal seconds
        started = perf_counter()
        examples, _ = cache.load_examples(prepared, phase, accelerator.device, observer)
        seconds += perf_counter() - started
        return examples

    fitted = prepared.fit(load_examples, accelerator=accelerator, observer=observer, checkpoints=checkpoints)
    return fitted, seconds


def _finite(objective: Objective, fitted: Fit) -> float:
    value, best = objective.evaluate(validation_metrics(fitted.metrics)), fitted.best_epoch
    if not math.isfinite(value):
        raise TrainingError(f"the objective {objective} is {value} in epoch {best}", kept_epoch=best)
    return value
