"""What a study's parent process and its workers agree on."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel


class TrackedRun(BaseModel):
    """Where a study's runs go: the MLflow store, the experiment in it, and the study's run."""

    uri: str
    experiment_id: str
    run_id: str


class WorkerJob(BaseModel):
    """What a worker needs to know.

    Attributes:
        experiment: with its study section; file names are absolute.
        folder: where trials' outputs are kept.
        storage: the study's database.
        tracked: None where nothing is tracked.
        digest: of the data, which must not have changed since.
        since: when the study began or went on, in seconds since 1970.
        deadline: when no more trials may begin; None for never.
    """

    experiment: dict[str, Any]
    folder: Path
    storage: str
    tracked: TrackedRun | None
    digest: str
    since: float
    deadline: float | None


def outputs_file(folder: Path, study_id: str, number: int) -> Path:
    """Where a trial's outputs for the test rows are kept; studies of one name but different databases differ in id."""
    return folder / "trials" / study_id / f"{number}.safetensors"
