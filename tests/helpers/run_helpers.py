"""A small training run, and what it leaves in MLflow."""

from mlflow import MlflowClient
from mlflow.entities import Run

from small_experiment import QUICKSTART, SMALL
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment


def small(*settings: str) -> Experiment:
    """The small experiment with other settings."""
    return load_experiment(QUICKSTART, [*SMALL, *settings])


def only_run(uri: str) -> Run:
    """The one run in a store."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run
