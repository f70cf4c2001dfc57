"""Run small studies, look into what they leave, and kill them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool, create_engine, inspect, text

import topwork
from queue_helpers import empty_database
from small_experiment import QUICKSTART, TINY
from topwork.engine.preparation_cache import PreparationCache
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment
from topwork.lab.study.report import summarize
from topwork.lab.study.resolved_study import ResolvedStudy, plan_study, resolve_study
from topwork.lab.study.result import StudyResult, TrialSummary
from topwork.lab.study.storage import close, is_local, open_storage, sqlite_path
from topwork.lab.study.study_run import StudyRun
from topwork.lab.study.trial_queue import open_trial_queue
from topwork.lab.study.trial_states import PROCESS, is_finished
from topwork.lab.study.worker import Worker
from topwork.lab.study.worker_job import WorkerJob
from topwork.lab.study.worker_pool import WorkerPool
from topwork.lab.tracking.store import PARENT_TAG, open_store
from topwork.lab.tracking.study_log import STATE_TAG, TRIAL_TAG, open_study_log
from topwork.registry import discover
from waiting import PATIENCE, wait_for

PAIR = {
    "optimizer.heads_lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "optimizer.backbone_lr": {"low": 1e-6, "high": 1e-2, "log": True},
}


def settings(*more: str, epochs: int = 2, **study: Any) -> list[str]:
    """What makes a small study out of the quickstart: the tiny backbone, 80 rows."""
    section = {"search": PAIR, "objective": "mean(sentiment/accuracy, category/accuracy)", "trials": 4} | study
    return [
        *TINY,
        f"training={{epochs: {epochs}, batch_size: 16, device: cpu, patience: {epochs}, monitor: validation/loss}}",
        f"study={json.dumps(section)}",
        *more,
    ]


def make_study(*more: str, **study: Any) -> Experiment:
    """A small study."""
    return load_experiment(QUICKSTART, settings(*more, **study))


def resolve_small(*more: str, **study: Any) -> ResolvedStudy:
    """A small study, resolved."""
    return resolve_study(make_study(*more, **study), discover())


class OneTrialWorker(Worker):
    """A worker that stops after each trial, and can then be sent to work again."""

    def train(self, trial: optuna.Trial) -> None:
        super().train(trial)
        self.stop.set()


class PoolHere(WorkerPool):
    """A pool without processes: this process trains a trial at each poll, which saves what a process has to import."""

    worker: OneTrialWorker | None = None

    def spawn(self) -> None:
        pass

    def assign(self, job: WorkerJob) -> None:
        self.worker = OneTrialWorker(job, Event())

    def start(self) -> None:
        pass

    def refill(self, job: WorkerJob) -> None:
        pass

    def respawn(self, job: WorkerJob, *, wanted: bool) -> None:
        if wanted and self.worker:
            self.worker.stop.clear()
            self.worker.work()

    def terminate(self) -> None:
        if self.worker:
            close(self.worker.queue.storage)


@contextmanager
def trained_here() -> Iterator[None]:
    """Studies that are run in this process train their trials in it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topwork.lab.study.launcher.WorkerPool", PoolHere)
        patch.setattr("topwork.lab.study.study_run.POLL_INTERVAL", 0)
        yield


def run_study(*more: str, **study: Any) -> StudyResult:
    """Carry out a small study that is not tracked, with its workers in processes of their own."""
    return topwork.study(make_study("tracking.enabled=false", *more, **study))


def run_study_here(*more: str, **study: Any) -> StudyResult:
    """The same in this process alone."""
    with trained_here():
        return run_study(*more, **study)


@contextmanager
def begun(experiment: Experiment) -> Iterator[StudyRun]:
    """Open a study's trials, and its MLflow run, as ``topwork study`` does, but without workers; see ``work``."""
    resolved = resolve_study(experiment, discover())
    plan = plan_study(resolved, PreparationCache())
    if (file := sqlite_path(resolved.storage_url)) and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(empty_database())
    storage = open_storage(resolved.storage_url)
    queue = open_trial_queue(
        storage,
        resolved.name,
        resolved.settings,
        resolved.search,
        identity=plan.identity,
        maximize=plan.maximize,
        epochs=resolved.total_epochs,
    )
    log = None
    if experiment.tracking.enabled:
        store = open_store(experiment.tracking, experiment.name)
        log = open_study_log(store, None, resolved.name, plan.baseline.dataset.digest)
    try:
        yield StudyRun(resolved, plan, WorkerPool(resolved.folder, 1), queue, log, queue.since)
    finally:
        close(storage)


def work(run: StudyRun, stop: Event | None = None) -> list[TrialSummary]:
    """Train a study's trials in this process, as one of its workers would, and return those that are finished."""
    worker = Worker(run.job, stop or Event())
    try:
        worker.work()
    finally:
        close(worker.queue.storage)
    return summarize(run.queue.finished())


def trials_of(url: str, name: str = "quickstart") -> list[FrozenTrial]:
    """All trials in a study's storage; none while there is no study."""
    if is_local(url) and not sqlite_path(url).exists():
        return []
    engine = create_engine(url, poolclass=NullPool)  # looking must not use up the database's connections
    if not inspect(engine).has_table("trial_heartbeats"):  # the last that Optuna creates
        return []
    with engine.connect() as connection:
        if not connection.execute(text("SELECT 1 FROM studies WHERE study_name = :name"), {"name": name}).first():
            return []
    storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool}, skip_table_creation=True)
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    finally:
        close(storage)


def runs_of(uri: str) -> tuple[list[Run], list[Run]]:
    """The studies' and the trials' MLflow runs."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    return parents, [run for run in runs if PARENT_TAG in run.data.tags]


def assert_whole(trials: Sequence[FrozenTrial], uri: str, wanted: int) -> None:
    """Check that a study ended with exactly the wanted trials, none repeated, and nothing left running."""
    finished = [trial for trial in trials if is_finished(trial)]
    assert len(finished) == wanted
    assert len({tuple(trial.params.items()) for trial in finished}) == wanted
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    parents, children = runs_of(uri)
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    complete = [run for run in children if run.data.tags[STATE_TAG] == "complete"]
    assert {int(run.data.tags[TRIAL_TAG]) for run in complete} == {trial.number for trial in finished}
    assert len(complete) == wanted
    assert {run.info.status for run in complete} == {"FINISHED"}
    others = [run for run in children if run not in complete]
    assert {(run.info.status, run.data.tags[STATE_TAG]) for run in others} <= {("KILLED", "lost")}


class Command:
    """``topwork study`` in a process of its own."""

    def __init__(self, folder: Path, options: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "topwork.cli", "study", str(QUICKSTART)]
        folder.mkdir(exist_ok=True)
        self.out = folder / "printed.txt"
        with self.out.open("a") as printed:
            self.process = subprocess.Popen(
                [*command, *(part for option in options for part in ("--set", option))],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def finish(self, *, code: int = 0) -> str:
        """Wait for the end and return what was printed so far in this folder."""
        try:
            returned = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        printed = self.out.read_text()
        assert returned == code, printed
        return printed

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return psutil.Process(self.process.pid).children()


def running_after(url: str, finished: int) -> list[FrozenTrial]:
    """The trials in training, once as many are finished; otherwise none."""
    trials = trials_of(url)
    if sum(trial.state == TrialState.COMPLETE for trial in trials) < finished:
        return []
    return [trial for trial in trials if trial.state == TrialState.RUNNING and PROCESS in trial.user_attrs]


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes as the kernel does when memory ends, and wait until they are gone."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        wait_for(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
