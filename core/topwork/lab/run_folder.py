"""The folder of a run: what was begun in it goes on from there."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoint_names import position_of
from topwork.errors import ConfigurationError, StorageError, first_line
from topwork.experiment.loading import describe_error
from topwork.experiment.schema import Experiment
from topwork.experiment.source import FILE_FIELDS
from topwork.files import exists_error, holding, reserved, write_file
from topwork.lab.result import Result
from topwork.lab.run_record import (
    CHECKPOINTS,
    OUTPUTS_FILE,
    RECORD_FILE,
    RESULT_FILE,
    RunRecord,
    model_path,
    read_record,
    run_path,
    same_place,
    trainings_in,
)
from topwork.lab.tracking.store import redact_uri
from topwork.lab.tracking.unsent import Unsent
from topwork.plugin_file import PluginFile
from topwork.registry import Registry

#: What a process that is killed leaves of a file that it was writing.
UNFINISHED_FILE = re.compile(rf"\.({RECORD_FILE}|{RESULT_FILE}|{OUTPUTS_FILE}|\d+\.json)\.\w{{8}}")

logger = logging.getLogger(__name__)


class RunFolder:
    """A run on disk.

    Attributes:
        path: its folder.
        record: what ``run.json`` says.
        resumed: whether it was begun before.
    """

    def __init__(self, path: Path, record: RunRecord, *, resumed: bool = False) -> None:
        self.path = path
        self.record = record
        self.resumed = resumed

    @property
    def model(self) -> Path:
        """The folder that the model gets."""
        return model_path(self.path, self.record)

    def update(self, **changes: object) -> None:
        """Change what ``run.json`` says.

        Raises:
            StorageError: it cannot be written; what it said before is untouched.
        """
        self.record = self.record.model_copy(update=changes)
        write_file(self.path / RECORD_FILE, f"{self.record.model_dump_json(indent=2)}\n".encode())

    def training(self, name: str = "") -> "RunTraining":
        """Return one training of the run, by its name."""
        return RunTraining(self, name)

    def trainings(self) -> list["RunTraining"]:
        """Return those trainings of which something is kept."""
        return [self.training(name) for name in trainings_in(self.path)]

    def is_begun(self) -> bool:
        """Whether there is something to go on from."""
        return any(one.checkpoints.paths() or one.is_finished() for one in self.trainings())

    def end(self, state: Literal["finished", "failed"], reason: str = "") -> None:
        """Note that the run has come to its end, and remove what is only needed to go on."""
        self.update(state=state, reason=reason, ended=time.time())
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what is only needed to go on, of a run that has come to its end."""
        for path in [path for path in self.path.rglob(".*") if UNFINISHED_FILE.fullmatch(path.name)]:
            path.unlink(missing_ok=True)  # a killed process was writing it
        for training in self.trainings():
            training.remove()


@dataclass(frozen=True)
class RunTraining:
    """One training of a run: of a seed, or of a task alone; the name is empty where the run is one training."""

    run: RunFolder
    name: str

    @property
    def id(self) -> str:
        """What tells it from all other trainings."""
        return f"{self.run.record.id} {self.name}".strip()

    @property
    def path(self) -> Path:
        """The folder of what is kept of it until the run has come to its end."""
        return self.run.path / self.name

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Its checkpoints."""
        return CheckpointFolder(self.path / CHECKPOINTS)

    @property
    def mlflow_id(self) -> str | None:
        """Its run in MLflow, if it has one."""
        return self.run.record.mlflow.get(self.name)

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, from 1, that the newest checkpoint is of, and how many of its steps are done."""
        newest = self.checkpoints.paths()[:1]
        return position_of(newest[0]) if newest else (1, 0)

    @property
    def epochs_begun(self) -> int:
        """How many epochs have been begun, as far as there are checkpoints."""
        epoch, step = self.position
        return epoch if step else epoch - 1

    @property
    def unsent(self) -> Unsent:
        """What its run in MLflow is yet to get."""
        return Unsent(self.path, self.run.path)

    def drop_unsent(self) -> None:
        """Remove what MLflow was to get of a training that is begun anew under another name."""
        if waiting := len(self.unsent.paths()):
            logger.warning("%d writes to the MLflow run of what was begun before are dropped", waiting)
            for write in self.unsent:
                del write

    def set_mlflow_id(self, run_id: str) -> None:
        """Note which run it has in MLflow."""
        self.run.update(mlflow={**self.run.record.mlflow, self.name: run_id})

    def note_epochs(self, count: int) -> None:
        """Note how many epochs it took; it is written with the next update."""
        epochs = {**self.run.record.epochs, self.name: count}
        self.run.record = self.run.record.model_copy(update={"epochs": epochs})

    def is_finished(self) -> bool:
        """Whether its result is kept."""
        return (self.path / RESULT_FILE).exists()

    def has_finished(self, model: Path | None) -> bool:
        """Whether its result is kept, and its model is where it was put; if that is gone, it is trained again."""
        if self.is_finished() and model is not None and not model.exists():
            logger.warning("the model in %s is gone, so it is trained again", model)
            self.remove()
        return self.is_finished()

    def keep(self, result: Result, outputs: SplitOutputs) -> None:
        """Keep what came of it, and remove its checkpoints.

        Raises:
            StorageError: it cannot be written.
        """
        values = {**asdict(result), "folder": "", "tracking_uri": None}
        write_file(self.path / OUTPUTS_FILE, outputs.to_bytes())
        write_file(self.path / RESULT_FILE, f"{json.dumps(values)}\n".encode())
        self.note_epochs(len(result.epochs))
        self.run.update()
        self.checkpoints.remove()

    def load(self, folder: Path | None, tracking_uri: str | None) -> tuple[Result, SplitOutputs]:
        """Return what came of it.

        Args:
            folder: where its model is.
            tracking_uri: of the MLflow store.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            result = TypeAdapter(Result).validate_python(json.loads((self.path / RESULT_FILE).read_bytes()))
            outputs = SplitOutputs.from_bytes(
                (self.path / OUTPUTS_FILE).read_bytes(), name=str(self.path / OUTPUTS_FILE)
            )
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{self.path / RESULT_FILE} is damaged: {first_line(error)}; remove {self.path} to train that again"
            ) from None
        return replace(result, folder=folder or Path(), tracking_uri=tracking_uri), outputs

    def remove(self) -> None:
        """Remove all that is kept of it."""
        self.checkpoints.remove()
        for name in (RESULT_FILE, OUTPUTS_FILE):
            (self.path / name).unlink(missing_ok=True)
        if self.name and not any(self.path.iterdir()):
            self.path.rmdir()


@contextmanager
def opened_run(
    experiment: Experiment, name: str, model: Path, *, alone: bool, path: Path | None = None
) -> Iterator[RunFolder]:
    """Begin a run, or go on with the one that was to make the same model, and keep both for this process.

    Nothing is written before ``update`` is called.

    Args:
        name: in MLflow, of a run that begins.
        model: the folder for its model.
        alone: whether each task is to be trained by itself too.
        path: of a run that goes on, where it is not the one beside the model.

    Raises:
        StorageError: the model's folder exists already, or another process trains the run; says which.
    """
    given, path = path, path or run_path(model)
    before = _record_of(path)
    own = before is not None and same_place(model_path(path, before), model)
    if before and before.state == "unfinished":
        _check_model(RunFolder(path, before), model, own=own, several=experiment.training.seeds is not None)
    elif before and own:
        with holding(path, "trained"):
            RunFolder(path, before).remove_leftovers()  # of a process that was killed at its very end
    with (
        reserved(model, existing=own and before is not None and before.state == "unfinished"),
        holding(path, "trained"),
    ):
        before = _record_of(path)  # another process may have written it since
        relative = os.path.relpath(model.parent.resolve() / model.name, path.resolve())
        if given is not None and (before is None or before.state != "unfinished"):
            raise ConfigurationError(f"run {path} has come to its end meanwhile")
        if before and before.state == "unfinished":
            yield RunFolder(path, before.model_copy(update={"model": relative, "alone": alone}), resumed=True)
            return
        if model.exists():
            raise exists_error(model)
        record = RunRecord(
            name=name,
            model=relative,
            alone=alone,
            experiment=dump_experiment(experiment, path),
            plugins=named_files(experiment),
        )
        yield RunFolder(path, record)


def _record_of(path: Path) -> RunRecord | None:
    """Return what a run is; None where there is none.

    Raises:
        StorageError: it cannot be read, or there are checkpoints of which nothing says what they are of.
    """
    if (path / RECORD_FILE).exists():
        return read_record(path)
    if trainings_in(path):
        raise StorageError(
            f"{path} has checkpoints or results, but no {RECORD_FILE} that says of what; remove it to train anew"
        )
    return None


def _check_model(run: RunFolder, model: Path, *, own: bool, several: bool) -> None:
    """Check that the model of a run that goes on can be put where it shall be.

    Args:
        own: whether that is where it was to be.
        several: whether the run makes several models, in a folder of their own.

    Raises:
        StorageError: something else is there.
        ConfigurationError: a part of what the run makes is somewhere else already.
    """
    if not own and any(training.is_finished() for training in run.trainings()):
        raise ConfigurationError(f"models of run {run.path} are in {run.model} already; go on without another --output")
    if own and model.exists() and not several and not (model / "model.json").exists():
        raise exists_error(model)


def dump_experiment(experiment: Experiment, path: Path) -> dict[str, Any]:
    """Return an experiment as JSON values, its files from the folder of a run; passwords are left out."""
    written = experiment.written()
    _change_files(written, lambda file: os.path.relpath(Path(file).resolve(), path.resolve()))
    if uri := experiment.tracking.uri:
        written["tracking"]["uri"] = redact_uri(uri)
    return written


def named_files(experiment: Experiment) -> tuple[PluginFile, ...]:
    """Return an experiment's plugin files by their names alone."""
    return tuple(file.model_copy(update={"path": Path(file.path.name)}) for file in experiment.plugins)


def load_recorded_experiment(path: Path, record: RunRecord, registry: Registry) -> Experiment:
    """Return the experiment of a run.

    Raises:
        ConfigurationError: it no longer fits what is installed, or its tracking store had a password.
    """
    written = json.loads(json.dumps(record.experiment))
    _change_files(written, lambda file: os.path.normpath(path.resolve() / file))
    if "***@" in (written.get("tracking") or {}).get("uri", ""):
        raise ConfigurationError(
            "the password of tracking.uri is not kept in the run; go on with the same topwork train command"
        )
    try:
        return Experiment.model_validate(written, context={"registry": registry})
    except ValidationError as error:
        faults = "\n".join(f"{'.'.join(map(str, one['loc']))}: {describe_error(one)}" for one in error.errors())
        raise ConfigurationError(faults).located(f"run {path}") from None


def _change_files(written: Mapping[str, Any], change: Callable[[str], str]) -> None:
    """Change the names of all files."""
    for file in written.get("plugins", ()):
        file["path"] = change(file["path"])
    for source in written["data"].values():
        for field in FILE_FIELDS:
            if source.get(field) is not None:
                source[field] = change(source[field])
