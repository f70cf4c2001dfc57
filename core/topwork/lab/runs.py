"""Train an experiment, with one seed or with several, to model folders and MLflow runs."""

import logging
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from topwork.engine.evaluation.comparison import SplitOutputs, metrics_of, stack_seeds
from topwork.engine.evaluation.estimates import Estimate, estimate
from topwork.engine.model.plan import Plan
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import ConfigurationError, StorageError, TrainingError, enumerate_names, text_of
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.files import check_room, is_held
from topwork.lab.alone import check_alone, gains_of_joining
from topwork.lab.observers import Observers, Observing
from topwork.lab.parallel_run import announce_result, join_processes, take_part
from topwork.lab.processes import exit_on_sigterm
from topwork.lab.result import Result, SeedsResult, UnsavedError
from topwork.lab.run_folder import RunFolder, dump_experiment, load_recorded_experiment, named_files, opened_run
from topwork.lab.run_identity import check_same, identity_of_run
from topwork.lab.run_record import RunRecord, find_runs, model_path, read_record
from topwork.lab.runner import Runner
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import open_store, redact_uri, store_of, tracking_uri_of
from topwork.lab.tracking.sync import absolute_uri, relative_uri
from topwork.registry import discover
from topwork.torchrun import as_here

#: What the results of a run say that may not be exact.
INEXACT = "this run was interrupted, and may not give the bits that it would have given undisturbed: {}"

logger = logging.getLogger(__name__)


def plan(experiment: Experiment) -> Plan:
    """Resolve an experiment against the real model and its rows; nothing is encoded or trained.

    Raises:
        TopworkError: what is wrong, and what to do about it.
    """
    return prepare(experiment).plan


def train(
    experiment: Experiment,
    *,
    output: str | Path | None = None,
    observer: Observing = None,
    alone: bool = False,
    allow_inexact: bool = False,
) -> Result:
    """Train an experiment, track it in MLflow, and write the model to a folder.

    Where a run that was to make the same model was interrupted, it goes on.

    Under torchrun all processes must call this alike. They train together; the main one alone calls observers, logs,
    and writes. The others return the result that it has.

    Args:
        output: the model's folder, which must not exist; a new one in ``models`` where it is not given.
        observer: its methods are called while the run trains; there may be several.
        alone: train each task by itself too, and say what it gained from the others.
        allow_inexact: let a run go on also where it may give other bits than it would have given undisturbed.

    Raises:
        UnsavedError: the run came to its end, but its model could not be written to its folder; has the result.
        TopworkError: what is wrong, and what to do about it. The MLflow run, if it began, is closed.
    """
    if experiment.training.seeds is not None:
        raise ConfigurationError("training.seeds has several seeds; train them with topwork.train_seeds")
    observers, processes = Observers(observer), join_processes(experiment.training)
    if not processes.is_main:
        return cast("Result", take_part(experiment, processes))
    name, folder = _names(experiment, output)
    if output is None:
        _tell_of_unfinished(experiment, folder.parent)
    with exit_on_sigterm(), opened_run(experiment, name, folder, alone=alone) as run:
        return announce_result(processes, _train(experiment, run, observers, allow_inexact=allow_inexact))


def train_seeds(
    experiment: Experiment,
    *,
    output: str | Path | None = None,
    observer: Observing = None,
    alone: bool = False,
    allow_inexact: bool = False,
) -> SeedsResult:
    """Train an experiment once with each of ``training.seeds``, and give means over them.

    Texts are encoded once. In MLflow the seeds' runs are below one that has the means. Where a run that was to make the
    same models was interrupted, it goes on. Under torchrun see ``train``.

    Args:
        output: a folder for the models, which must not exist: ``seed-0`` and so on in it; a new one in ``models`` where
            it is not given.
        observer: see ``train``.
        alone: see ``train``.
        allow_inexact: see ``train``.

    Raises:
        TopworkError: what is wrong, and what to do about it. The MLflow runs that began are closed.
    """
    observers, processes = Observers(observer), join_processes(experiment.training)
    if not processes.is_main:
        return cast("SeedsResult", take_part(experiment, processes))
    name, folder = _names(experiment, output)
    if output is None:
        _tell_of_unfinished(experiment, folder.parent)
    with exit_on_sigterm(), opened_run(experiment, name, folder, alone=alone) as run:
        return announce_result(processes, _train_seeds(experiment, run, observers, allow_inexact=allow_inexact))


def resume(
    run: str | Path,
    *,
    output: str | Path | None = None,
    observer: Observing = None,
    allow_inexact: bool = False,
) -> Result | SeedsResult:
    """Go on with a run that was interrupted, as the command would that began it; under torchrun see ``train``.

    Args:
        run: its folder.
        output: another folder for the model.
        observer: see ``train``.
        allow_inexact: see ``train``.

    Raises:
        TopworkError: what is wrong, and what to do about it.
    """
    path, observers = Path(run), Observers(observer)
    record = read_record(path)
    if record.state != "unfinished":
        why = (
            f"is finished; its model is in {model_path(path, record)}"
            if record.state == "finished"
            else f"failed: {record.reason}"
        )
        raise ConfigurationError(f"run {path} {why}")
    experiment = load_recorded_experiment(path, record, discover(record.plugins))
    processes = join_processes(experiment.training)
    if not processes.is_main:
        return cast("Result | SeedsResult", take_part(experiment, processes))
    folder = Path(output) if output else model_path(path, record)
    with exit_on_sigterm(), opened_run(experiment, record.name, folder, alone=record.alone, path=path) as opened:
        if experiment.training.seeds is None:
            return announce_result(processes, _train(experiment, opened, observers, allow_inexact=allow_inexact))
        return announce_result(processes, _train_seeds(experiment, opened, observers, allow_inexact=allow_inexact))


def _train(experiment: Experiment, run: RunFolder, observer: Observers, *, allow_inexact: bool) -> Result:
    """Carry out a run of one seed."""
    runner, alone = _runner(experiment, run, observer), run.record.alone
    if alone:
        check_alone(runner, experiment)
    prepared = _prepare(runner, experiment, run, models=1)
    warnings = _tell(prepared.sampling.warnings_of_comparison) if alone else []
    begin(run, experiment, prepared, runner, allow_inexact=allow_inexact)
    name, training = run.record.name, run.training()
    with ending(run), log_run(runner.store, name, training=training) if runner.store else nullcontext() as log:
        if log:
            log.log_start(prepared, runner.registry)
            log.note_inexact(run.record.inexact)
        if training.has_finished(run.model):
            result, outputs = training.load(run.model, redact_uri(log.store.uri) if log else None)
        else:
            result, outputs = runner.run(prepared, name, run.model, log, training)
            if alone:  # what follows may be interrupted too
                training.keep(result, outputs)
        training.note_epochs(len(result.epochs))
        warnings += [INEXACT.format(why) for why in run.record.inexact]
        if alone:
            result = replace(result, against_alone=gains_of_joining(runner, experiment, [], name, outputs, log))
        return replace(result, warnings=[*result.warnings, *warnings])


def _train_seeds(experiment: Experiment, run: RunFolder, observer: Observers, *, allow_inexact: bool) -> SeedsResult:
    """Carry out a run of several seeds."""
    seeds = experiment.training.seeds or (experiment.training.seed,)
    runner, alone = _runner(experiment, run, observer), run.record.alone
    if alone:
        check_alone(runner, experiment)
    of_seeds = {seed: with_seed(experiment, seed, runner) for seed in seeds}
    prepared = _prepare(runner, of_seeds[seeds[0]], run, models=len(seeds))
    warnings = _tell(prepared.sampling.warnings_of_comparison) if alone else []
    begin(run, experiment, prepared, runner, allow_inexact=allow_inexact)
    name, training = run.record.name, run.training()
    with ending(run), log_run(runner.store, name, training=training) if runner.store else nullcontext() as log:
        if log:
            log.log_start(replace(prepared, experiment=experiment), runner.registry)
            log.note_inexact(run.record.inexact)
        run.model.mkdir(parents=True, exist_ok=run.resumed)
        by_seed: dict[int, Result] = {}
        outputs: list[SplitOutputs] = []
        for seed, varied in of_seeds.items():
            folder = run.model / f"seed-{seed}"
            by_seed[seed], of_seed = runner.run_below(varied, f"seed {seed}", name, f"seed-{seed}", folder, log)
            outputs.append(of_seed)
        stacked = stack_seeds(outputs)
        result = _result_of_seeds(name, experiment, by_seed, stacked, log)
        warnings += [INEXACT.format(why) for why in run.record.inexact]
        if alone:
            gains = gains_of_joining(runner, experiment, list(seeds), name, stacked, log)
            result = replace(result, against_alone=gains)
        result = replace(result, warnings=[*result.warnings, *warnings])
        if log:
            log.log_seeds(result)
            log.log_outputs(stacked)
        return result


def begin(
    run: RunFolder, experiment: Experiment, prepared: Preparation, runner: Runner, *, allow_inexact: bool
) -> None:
    """Note what a run is, or check that it goes on as it was begun.

    Raises:
        ConfigurationError: it cannot go on; says what has changed.
        StorageError: its folder cannot be written.
    """
    accelerator = make_accelerator(experiment.training)
    identity = identity_of_run(experiment, prepared, runner.registry, accelerator.device, accelerator.num_processes)
    written: dict[str, Any] = {
        "experiment": dump_experiment(experiment, run.path),
        "plugins": named_files(experiment),
        "identity": identity,
    }
    if store := runner.store:
        written |= {"tracking_uri": relative_uri(store.uri, run.path), "experiment_id": store.experiment_id}
    elif run.record.mlflow:
        logger.warning("tracking is off, so the MLflow run of %s stays as it is", run.path)
    if not run.is_begun():
        if run.record.identity != identity:  # nothing is done, so that it may as well be another run
            run.record = RunRecord(name=run.record.name, model=run.record.model, alone=run.record.alone, experiment={})
            for training in run.trainings():
                training.drop_unsent()
        run.update(**written)
        return
    trainings = run.trainings()
    done = None if any(one.is_finished() for one in trainings) else max(one.epochs_begun for one in trainings)
    changes, inexact = check_same(run.record.identity, identity, done, allow_inexact=allow_inexact)
    for change in changes:
        logger.warning("run %s goes on with other settings: %s", run.path, change)
    run.update(**written, inexact=list(dict.fromkeys([*run.record.inexact, *inexact])))


@contextmanager
def ending(run: RunFolder) -> Iterator[None]:
    """Note what came of a run; where it did not come to its end, say how it goes on."""
    try:
        yield
    except TrainingError as error:
        if finished := [training.name for training in run.trainings() if training.is_finished()]:
            error.add_note(f"{enumerate_names(finished)} had come to their end; their models stay in {run.model}")
        run.end("failed", text_of(error))
        raise
    except BaseException as error:
        if isinstance(error, UnsavedError) and not run.is_begun():  # it was too short to be worth a checkpoint
            run.end("failed", text_of(error))
        if run.is_begun():
            command = as_here(f"topwork resume {shlex.quote(str(run.path))}")
            error.add_note(f"what is done is kept; go on with: {command}")
        raise
    try:
        run.end("finished")
    except StorageError as error:  # which costs nothing but the note
        logger.warning("that run %s is finished could not be noted: %s", run.path, error)


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


def _runner(experiment: Experiment, run: RunFolder, observer: Observers) -> Runner:
    """Return what carries out a run.

    Raises:
        StorageError: the MLflow store cannot be used; where a run goes on that is in it, it may be away for now.
    """
    registry, tracking = discover(experiment.plugins), experiment.tracking
    noted = absolute_uri(run.record.tracking_uri, run.path)
    if run.resumed and noted and "***@" not in noted and not (tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        tracking = tracking.model_copy(update={"uri": noted})  # the one in the folder in which it was begun
    store = None
    if tracking.enabled:
        try:
            store = open_store(tracking, experiment.name)
        except StorageError as error:
            if not run.training().mlflow_id:
                raise
            logger.warning("%s; the run goes on, and what is logged waits in %s", error, run.path)
            store = store_of(tracking_uri_of(tracking.uri), run.record.experiment_id, away=True)
    return Runner(registry, store, observer, run)


def _prepare(runner: Runner, experiment: Experiment, run: RunFolder, *, models: int) -> Preparation:
    """Prepare a run, see that there is room for its models and checkpoints, and give the warnings."""
    prepared = runner.prepare(experiment)
    check_room(run.model, models * sum(weight.nbytes for weight in prepared.model.state_dict().values()))
    if experiment.training.checkpoint_minutes is not None:
        check_room(run.path, prepared.checkpoint_bytes)
    _tell(prepared.warnings)
    return prepared


def _tell_of_unfinished(experiment: Experiment, models: Path) -> None:
    """Where a run begins that nobody named, say which of the same experiment could go on instead."""
    for path in find_runs([models]):
        with suppress(StorageError):  # topwork runs shows it as damaged
            record = read_record(path)
            if record.state == "unfinished" and record.experiment.get("name") == experiment.name and not is_held(path):
                logger.warning("run %s of this experiment is unfinished; topwork resume %s goes on with it", path, path)


def _tell(warnings: list[str]) -> list[str]:
    """Log warnings, and return them."""
    for warning in warnings:
        logger.warning(warning)
    return warnings
