"""What a run is, and how far it has come, as its folder says; read without anything heavy.

The run that makes the model ``models/x`` is in ``models/runs/x``. ``run.json`` says what was asked; a run that is not
finished has beside it the checkpoints of its trainings, and the results of those that are finished. All paths in it are
relative, so that it can be moved together with the model and the data.
"""

import json
import os
import secrets
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from topwork.errors import StorageError, first_line
from topwork.plugin_file import PluginFile

#: The folder, beside a model, of the runs that make models there.
RUNS = "runs"

RECORD_FILE, RESULT_FILE, OUTPUTS_FILE = "run.json", "result.json", "outputs.safetensors"
CHECKPOINTS, UNSENT = "checkpoints", "unsent"

#: The layout of the folder; a newer one is refused.
FORMAT: Final = 1


class RunRecord(BaseModel):
    """What ``run.json`` holds.

    Attributes:
        topwork: the version that began the run.
        id: tells this run from all others.
        name: in MLflow.
        state: ``failed`` where it cannot go on, because the training diverged.
        reason: why it failed.
        model: the model's folder, from that of the run.
        alone: whether each task is trained by itself too.
        plugins: its plugin files.
        experiment: as JSON values, its files from the folder of the run.
        identity: what must be the same where it goes on, in words.
        inexact: why it went on although it may give other bits than it would have given undisturbed; mostly empty.
        mlflow: the MLflow run of each training, by its name.
        tracking_uri, experiment_id: of the MLflow store and the experiment there; a sqlite file from the folder of the
            run, and no password.
        epochs: how many each training that is finished took, by its name.
        begun, ended: seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    topwork: str = Field(default_factory=lambda: version("topwork"))
    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    name: str
    state: Literal["unfinished", "finished", "failed"] = "unfinished"
    reason: str = ""
    model: str
    alone: bool = False
    experiment: dict[str, Any]
    plugins: tuple[PluginFile, ...] = ()
    identity: dict[str, str] = {}
    inexact: list[str] = []
    mlflow: dict[str, str] = {}
    tracking_uri: str = ""
    experiment_id: str = ""
    epochs: dict[str, int] = {}
    begun: float = Field(default_factory=time.time)
    ended: float | None = None


def model_path(path: Path, record: RunRecord) -> Path:
    """Return the folder that the model of a run gets."""
    beside = Path(record.model).parts[:2] == ("..", "..") and len(Path(record.model).parts) == 3
    return Path(os.path.normpath((path if beside else path.resolve()) / record.model))


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one place, whatever links lead there."""
    return one.parent.resolve() / one.name == other.parent.resolve() / other.name


def run_path(model: Path) -> Path:
    """Return the folder of the run that makes a model."""
    return model.parent / RUNS / model.name


def read_record(path: Path) -> RunRecord:
    """Read what a run is.

    Raises:
        StorageError: it cannot be read, or is of a newer topwork.
    """
    file = path / RECORD_FILE
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(written, dict) and isinstance(number := written.get("format"), int) and number > FORMAT:
            raise StorageError(
                f"{file} has format {number}, this topwork ({version('topwork')}) reads format {FORMAT}; "
                f"use topwork {written.get('topwork', '?')!s:.40}, which wrote it"
            )
        return RunRecord.model_validate(written)
    except FileNotFoundError:
        raise StorageError(f"{path} is no run: it has no {RECORD_FILE}; topwork runs shows those there are") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise StorageError(f"{file} is damaged: {faults}; remove {path} to train anew") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{file} cannot be read: {first_line(error)}; remove {path} to train anew") from None


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of the runs beside models in some folders, or in these, in the order of their last change."""
    places = [folder if folder.name == RUNS else folder / RUNS for folder in folders]
    found = [path.parent for place in places for path in place.glob(f"*/{RECORD_FILE}")]
    return sorted(found, key=lambda path: (path / RECORD_FILE).stat().st_ctime)


def trainings_in(path: Path) -> dict[str, Path]:
    """Return the folders of those trainings of a run of which something is kept, by the training's name."""
    found = {one.parent for kept in (CHECKPOINTS, RESULT_FILE, UNSENT) for one in path.rglob(kept)}
    return {"" if one == path else one.name: one for one in sorted(found)}


def unsent_in(folder: Path) -> list[Path]:
    """Return the files of what MLflow is yet to get of a training, in order."""
    return sorted((folder / UNSENT).glob("[0-9]*.json"))
