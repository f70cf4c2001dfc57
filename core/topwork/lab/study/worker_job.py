"""What a study's parent process and its workers agree on."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.plugin_file import PluginFile

#: Where the checkpoints of trials are, in the folder of a study.
CHECKPOINTS = "checkpoints"


class TrackedRun(BaseModel):
    """Where a study's runs go: the MLflow store, the experiment in it, and the study's run."""

    uri: str
    experiment_id: str
    run_id: str


class WorkerJob(BaseModel):
    """What a worker needs to know.

    Attributes:
        experiment: with its study section; file names are absolute.
        plugins: the experiment's plugin files, as they were when the study began.
        folder: where trials' outputs and checkpoints are kept.
        storage: the study's database.
        tracked: None where nothing is tracked.
        digest: of the data, which must not have changed since.
        since: when the study began or went on, in seconds since 1970.
        deadline: when no more trials may begin; None for never.
    """

    experiment: dict[str, Any]
    plugins: tuple[PluginFile, ...] = ()
    folder: Path
    storage: str
    tracked: TrackedRun | None
    digest: str
    since: float
    deadline: float | None


def checkpoints_of(folder: Path, identity: Mapping[str, str]) -> CheckpointFolder:
    """Return the checkpoints of a training of a trial; those of trainings that differ in anything are others."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return CheckpointFolder(folder / CHECKPOINTS / digest[:16])


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of all trials, when a study has come to its end."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def outputs_file(folder: Path, study_id: str, number: int) -> Path:
    """Where a trial's outputs for the test rows are kept; studies of one name but different databases differ in id."""
    return folder / "trials" / study_id / f"{number}.safetensors"
