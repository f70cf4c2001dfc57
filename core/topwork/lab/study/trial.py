"""Train one trial and judge it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any

from topwork.engine.comparison import Judged, beside, put_together
from topwork.engine.evaluation import Rows, outputs_of
from topwork.engine.observer import Epoch, Observer, Reading
from topwork.engine.plan import Phase
from topwork.engine.preparation import Prepared
from topwork.engine.training import Fit, directions, fit, make_accelerator
from topwork.engine.workbench import Workbench
from topwork.errors import ConfigurationError, TrainingError
from topwork.experiment.objective import Objective, greater_is_better, parse_objective
from topwork.experiment.schema import Experiment, SplitName
from topwork.experiment.search import study_of, vary
from topwork.experiment.study import Study
from topwork.registry import Registry

VALIDATION = "validation/"

#: Called with a step, the number of an epoch from 1, or of later seeds that plus ``most_epochs`` for each seed before,
#: so that equal steps of two trials mean the same; with its validation metrics, and with the objectives so far.
Told = Callable[[int, Mapping[str, float], Sequence[float]], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        values: of the objectives, the mean over seeds.
        judged: what the models said of the test rows; None where there are none.
        training_seconds: spent in the training loop, evaluation included.
    """

    values: list[float]
    judged: Judged | None
    training_seconds: float


def train_trial(
    bench: Workbench,
    experiment: Experiment,
    values: Mapping[str, Any],
    registry: Registry,
    *,
    check: Callable[[], None],
    told: Told,
) -> Outcome:
    """Train an experiment with other values, as ``topwork train`` would, once with each seed.

    Args:
        values: by path.
        check: is called at least once a batch, and may raise to stop.
        told: is called after every epoch, and may raise to stop.

    Raises:
        TopworkError: the values do not fit together, or training diverged.
    """
    study = study_of(experiment)
    objectives = [parse_objective(text) for text in study.objectives]
    epochs = most_epochs(experiment, registry)
    finished: list[list[float]] = []
    judged: list[Judged] = []
    seconds = 0.0
    for number, seed in enumerate(seeds_of(experiment)):
        varied = vary_trial(experiment, values, seed, registry)

        def tell(epoch: Epoch, done: int = number * epochs) -> None:
            metrics = validation_metrics(epoch)
            so_far = [*finished, [objective.of(metrics) for objective in objectives]]
            told(done + epoch.number, metrics, [fmean(column) for column in zip(*so_far, strict=True)])

        prepared = bench.prepare(varied)
        started = perf_counter()
        outcome, reading_seconds = _fit(bench, prepared, Watch(check, tell))
        seconds += perf_counter() - started - reading_seconds
        best = next(epoch for epoch in outcome.epochs if epoch.number == outcome.best)
        finished.append([_finite(objective, best) for objective in objectives])
        if "test" in outcome.data:
            rows, device = outcome.data["test"], next(prepared.model.parameters()).device
            judged.append(put_together(prepared, "test", outputs_of(prepared.model, rows, device=device), rows))
    return Outcome(
        [fmean(column) for column in zip(*finished, strict=True)], beside(judged) if judged else None, seconds
    )


class Watch(Observer):
    """Looks up from training often enough that it can be stopped."""

    def __init__(self, check: Callable[[], None], tell: Callable[[Epoch], None]) -> None:
        self.check = check
        self.tell = tell

    def begin(self, phase: str, total: int) -> None:
        self.check()

    def advance(self, done: int) -> None:
        self.check()

    def read(self, reading: Reading) -> None:
        self.check()

    def epoch(self, epoch: Epoch) -> None:
        self.tell(epoch)


def vary_trial(experiment: Experiment, values: Mapping[str, Any], seed: int, registry: Registry) -> Experiment:
    """Return the experiment that a trial trains with one seed.

    Raises:
        ConfigurationError: the values do not fit together.
    """
    to_the_end = {"training.patience": None} if study_of(experiment).epoch == "last" else {}
    return vary(experiment, {**values, **to_the_end, "training.seed": seed}, registry)


def seeds_of(experiment: Experiment) -> list[int]:
    """The seeds that every trial is trained with."""
    return study_of(experiment).seeds or [experiment.training.seed]


def most_epochs(experiment: Experiment, registry: Registry) -> int:
    """How many epochs a trial may have with one seed."""
    search = study_of(experiment).search
    searched = [path for path in ("training", "training.epochs") if path in search]
    varied = [vary(experiment, {path: one}, registry) for path in searched for one in search[path].extremes]
    return max(one.training.epochs for one in [experiment, *varied])


def validation_metrics(epoch: Epoch) -> dict[str, float]:
    """The metrics of an epoch that objectives name."""
    return {
        name.removeprefix(VALIDATION): value for name, value in epoch.metrics.items() if name.startswith(VALIDATION)
    }


def check_objectives(study: Study, experiment: Experiment, prepared: Prepared) -> list[bool]:
    """Check that the objectives can be measured; return for each whether greater is better.

    Raises:
        ConfigurationError: there are no validation rows, a metric does not exist, or some should rise and others
            fall; or trials are to be judged by their best epoch, which is not kept.
    """
    where = experiment.origin.locate("study", "objective")
    if "validation" not in prepared.dataset.parts:
        raise ConfigurationError(
            f"{where}: a study judges trials on validation rows, and there are none: set split.validation or a "
            "validation file"
        )
    if study.epoch == "best" and experiment.training.patience is None:
        raise ConfigurationError(
            f"{experiment.origin.locate('study', 'epoch')}: best epochs are kept by training.patience, which is null; "
            "set it, to training.epochs to train them all, or set study.epoch: last"
        )
    given = directions(prepared.model, prepared.dataset.parts.keys())
    on_validation = {
        name.removeprefix(VALIDATION): rising for name, rising in given.items() if name.startswith(VALIDATION)
    }
    rising: list[bool] = []
    faults: list[str] = []
    for text in study.objectives:
        try:
            rising.append(greater_is_better(parse_objective(text), on_validation))
        except ValueError as fault:
            faults += [f"{where}: {line}" for line in str(fault).splitlines()]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return rising


def _fit(bench: Workbench, prepared: Prepared, watch: Watch) -> tuple[Fit, float]:
    """Train, and say how many seconds went into reading."""
    accelerator = make_accelerator(prepared.experiment.training)
    seconds = 0.0

    def read(phase: Phase) -> dict[SplitName, Rows]:
        nonlocal seconds
        started = perf_counter()
        rows, _ = bench.read(prepared, phase, device=accelerator.device, observer=watch)
        seconds += perf_counter() - started
        return rows

    outcome = fit(prepared.model, prepared.plan, read, prepared.experiment, accelerator=accelerator, observer=watch)
    return outcome, seconds


def _finite(objective: Objective, epoch: Epoch) -> float:
    value = objective.of(validation_metrics(epoch))
    if not math.isfinite(value):
        raise TrainingError(f"the objective {objective} is {value} in epoch {epoch.number}", kept_epoch=epoch.number)
    return value
