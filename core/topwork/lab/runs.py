"""Train an experiment, with one seed or with several, to model folders and MLflow runs."""

import logging
import os
import secrets
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from topwork.engine.evaluation.comparison import SplitOutputs, metrics_of, stack_seeds
from topwork.engine.evaluation.estimates import Estimate, estimate
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.files import check_room, reserved
from topwork.lab.alone import check_alone, gains_of_joining
from topwork.lab.processes import exit_on_sigterm
from topwork.lab.result import Result, SeedsResult
from topwork.lab.runner import Runner
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import open_store, redact_uri
from topwork.registry import discover

logger = logging.getLogger(__name__)


def train(
    experiment: Experiment, *, output: str | Path | None = None, observer: Observer | None = None, alone: bool = False
) -> Result:
    """Train an experiment, track it in MLflow, and write the model to a folder.

    Args:
        output: the model's folder, which must not exist; a new one in ``models`` where it is not given.
        observer: its methods are called while the run trains.
        alone: train each task by itself too, and say what it gained from the others.

    Raises:
        UnsavedError: the run came to its end, but its model could not be written to its folder; has the result.
        TopworkError: what is wrong, and what to do about it. The MLflow run, if it began, is closed.
    """
    if experiment.training.seeds is not None:
        raise ConfigurationError("training.seeds has several seeds; train them with topwork.train_seeds")
    name, folder = _names(experiment, output)
    with exit_on_sigterm(), reserved(folder):
        runner = _runner(experiment, observer)
        if alone:
            check_alone(runner, experiment)
        prepared = _prepare(runner, experiment, folder, models=1)
        warnings = _tell(prepared.sampling.warnings_of_comparison) if alone else []
        with log_run(runner.store, name) if runner.store else nullcontext() as log:
            if log:
                log.start(prepared, runner.registry)
            result, outputs = runner.run(prepared, name, folder, log)
            if alone:
                gains = gains_of_joining(runner, experiment, [], name, outputs, log)
                result = replace(result, against_alone=gains, warnings=[*result.warnings, *warnings])
        return result


def train_seeds(
    experiment: Experiment, *, output: str | Path | None = None, observer: Observer | None = None, alone: bool = False
) -> SeedsResult:
    """Train an experiment once with each of ``training.seeds``, and give means over them.

    Texts are encoded once. In MLflow the seeds' runs are below one that has the means.

    Args:
        output: a folder for the models, which must not exist: ``seed-0`` and so on in it; a new one in ``models`` where
            it is not given.
        observer, alone: see ``train``.

    Raises:
        TopworkError: what is wrong, and what to do about it. The MLflow runs that began are closed.
    """
    seeds = experiment.training.seeds or (experiment.training.seed,)
    name, folder = _names(experiment, output)
    with exit_on_sigterm(), reserved(folder):
        runner = _runner(experiment, observer)
        if alone:
            check_alone(runner, experiment)
        of_seeds = {seed: with_seed(experiment, seed, runner) for seed in seeds}
        prepared = _prepare(runner, of_seeds[seeds[0]], folder, models=len(seeds))
        warnings = _tell(prepared.sampling.warnings_of_comparison) if alone else []
        with log_run(runner.store, name) if runner.store else nullcontext() as log:
            if log:
                log.start(replace(prepared, experiment=experiment), runner.registry)
            folder.mkdir(parents=True)
            by_seed: dict[int, Result] = {}
            outputs: list[SplitOutputs] = []
            for seed, varied in of_seeds.items():
                by_seed[seed], of_seed = runner.run_below(
                    varied, f"seed {seed}", f"{name}-seed-{seed}", folder / f"seed-{seed}", log
                )
                outputs.append(of_seed)
            stacked = stack_seeds(outputs)
            result = _result_of_seeds(name, experiment, by_seed, stacked, log)
            if alone:
                gains = gains_of_joining(runner, experiment, list(seeds), name, stacked, log)
                result = replace(result, against_alone=gains, warnings=[*result.warnings, *warnings])
            if log:
                log.log_seeds(result)
                log.log_outputs(stacked)
        return result


def _result_of_seeds(
    name: str, experiment: Experiment, by_seed: dict[int, Result], outputs: SplitOutputs, log: RunLog | None
) -> SeedsResult:
    return SeedsResult(
        name=name,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        split=outputs.split,
        estimates=estimates_over_seeds(experiment, outputs),
        by_seed=by_seed,
        warnings=list(dict.fromkeys(warning for one in by_seed.values() for warning in one.warnings)),
    )


def with_seed(experiment: Experiment, seed: int, runner: Runner) -> Experiment:
    """Return the experiment with one seed."""
    return with_overrides(experiment, {"training.seeds": None, "training.seed": seed}, runner.registry)


def estimates_over_seeds(experiment: Experiment, outputs: SplitOutputs) -> dict[str, Estimate]:
    """Return the mean over seeds of each metric, with its interval, by ``<task>/<metric>``."""
    return {
        f"{task}/{metric}": estimate(measure, outputs.by_seed(task), targets)
        for task, targets in outputs.targets.items()
        for metric, measure in metrics_of(experiment.tasks[task].head, outputs, task).items()
    }


def _names(experiment: Experiment, output: str | Path | None) -> tuple[str, Path]:
    """Return the name of a run and the folder for its model."""
    unique = f"{experiment.name}-{secrets.token_hex(3)}"
    return os.environ.get("MLFLOW_RUN_NAME") or unique, Path(output) if output else Path("models") / unique


def _runner(experiment: Experiment, observer: Observer | None) -> Runner:
    registry = discover()
    store = open_store(experiment.tracking, experiment.name) if experiment.tracking.enabled else None
    return Runner(registry, store, observer or Observer())


def _prepare(runner: Runner, experiment: Experiment, folder: Path, *, models: int) -> Preparation:
    """Prepare a run, see that there is room for its models, and give the warnings."""
    prepared = runner.prepare(experiment)
    check_room(folder, models * sum(weight.nbytes for weight in prepared.model.state_dict().values()))
    _tell(prepared.warnings)
    return prepared


def _tell(warnings: list[str]) -> list[str]:
    """Log warnings, and return them."""
    for warning in warnings:
        logger.warning(warning)
    return warnings
