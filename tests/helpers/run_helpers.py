"""Small training runs, and what they leave in MLflow."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run

from small_experiment import QUICKSTART, SMALL
from topwork.engine.observer import Epoch
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment
from topwork.lab.tracking.open_run import RunWriter
from topwork.lab.tracking.store import TrackingStore, open_store


def small(*settings: str) -> Experiment:
    """The small experiment with other settings."""
    return load_experiment(QUICKSTART, [*SMALL, *settings])


def open_small_store(uri: str, *settings: str) -> TrackingStore:
    """Open an MLflow store as a run of the small experiment does."""
    experiment = small(f"tracking.uri={uri}", *settings)
    return open_store(experiment.tracking, experiment.name)


def run_of(log: RunWriter) -> Run:
    """A run as MLflow has it."""
    return MlflowClient(tracking_uri=log.store.uri).get_run(log.run_id)


def only_run(uri: str) -> Run:
    """The one run in a store."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run


def epoch(number: int) -> Epoch:
    """An epoch with one metric."""
    return Epoch(number, {"training/loss": 1.0 / number}, {"heads": 1e-3}, 100.0)


def sql(uri: str, statement: str) -> None:
    """Do something to a store behind MLflow's back."""
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
    with connection:
        connection.execute(statement)
    connection.close()


@contextmanager
def signals_heard() -> Iterator[None]:
    """Let Ctrl-C and SIGHUP reach this process and those it starts, also where it was begun with them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
