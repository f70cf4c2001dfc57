"""``model.json``, which says what a trained model is and which plugins it needs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from topwork.engine.label_record import LabelRecord
from topwork.errors import StorageError, first_line
from topwork.experiment.loading import describe_error

#: The layout of the folder; a newer one is refused. The first knew classes alone, by their names.
FORMAT = 2

#: The folder of plugin files in that of a model.
PLUGINS = "plugins"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class NeededPlugin:
    """A plugin without which a model cannot be loaded."""

    interface: str
    kind: str
    package: str
    version: str


def _check_inside(name: str) -> str:
    path = PurePosixPath(name)
    if (
        path.as_posix() != name
        or path.parts[:1] not in {("backbone",), (PLUGINS,)}
        or ".." in path.parts
        or "\0" in name
    ):
        raise ValueError(f"{name!r} is not a file in backbone/ or plugins/")
    return name


def _is_text_or_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _check_experiment(experiment: dict[str, Any]) -> dict[str, Any]:
    """Check what of an experiment a model is made from; the rest was for its training."""
    data, tasks = experiment.get("data"), experiment.get("tasks")
    if not (isinstance(data, dict) and data and all(isinstance(source, dict) for source in data.values())):
        raise ValueError("data must be a mapping of sources")
    if not (isinstance(tasks, dict) and tasks and all(isinstance(task, dict) for task in tasks.values())):
        raise ValueError("tasks must be a mapping of tasks")
    labels = [f"tasks.{name}.label" for name, task in tasks.items() if not _is_text_or_texts(task.get("label"))]
    settings = {name: experiment.get(name) for name in ("backbone", "pooling")}
    settings |= {f"tasks.{name}.head": task.get("head") for name, task in tasks.items()}
    kinds = [
        f"{name}.kind"
        for name, given in settings.items()
        if not isinstance(given, dict) or not isinstance(given.get("kind"), str)
    ]
    if labels or kinds:
        raise ValueError(f"{', '.join([*labels, *kinds])} must be text")
    return experiment


class ModelManifest(BaseModel):
    """What ``model.json`` holds.

    Attributes:
        weights_sha256: of weights.safetensors.
        files_sha256: of the files in ``backbone/`` and ``plugins/``, by path in the folder; earlier versions wrote
            none.
        labels: the label space of each task.
        plugins: without which the model cannot be loaded.
        digests: the sha256 of each file of data, by path.
        mixed_stages: how many of the first stages run in mixed precision.
        experiment: that trained the model, as JSON values.
        sha256: of all of this but itself; earlier versions wrote none.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    weights_sha256: Sha256
    files_sha256: dict[Annotated[str, AfterValidator(_check_inside)], Sha256] = {}
    labels: Annotated[dict[str, LabelRecord], Field(min_length=1)]
    plugins: tuple[NeededPlugin, ...]
    digests: dict[str, str]
    mixed_stages: Annotated[int, Field(ge=0)] = 0
    experiment: Annotated[dict[str, Any], AfterValidator(_check_experiment)]
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _check_tasks(self) -> "ModelManifest":
        if self.experiment["tasks"].keys() != self.labels.keys():
            tasks = ", ".join(self.experiment["tasks"])
            raise ValueError(f"the tasks are {tasks}, but there are labels of {', '.join(self.labels)}")
        return self


def read_model_manifest(folder: Path) -> ModelManifest:
    """Read ``model.json``.

    Raises:
        StorageError: the folder is not a trained model, one of a newer version, or damaged; names every fault.
    """
    path = folder / "model.json"
    try:
        content = path.read_text(encoding="utf-8")
        written = json.loads(content)
        if not isinstance(written, dict):
            raise ValueError("it holds no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{folder} is not a trained model: it holds no model.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read: {first_line(error)}") from None
    if type(written.get("format")) is not int or not 1 <= written["format"] <= FORMAT:
        raise StorageError(
            f"{path} has format {written.get('format')!r:.40}, this topwork ({version('topwork')}) reads formats 1 to "
            f"{FORMAT}; use topwork {written.get('topwork', '?')!s:.40}, which wrote it"
        )
    try:
        manifest = ModelManifest.model_validate_json(json.dumps(_in_newest_format(written)))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {describe_error(fault)}" for fault in error.errors()]
        more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
        raise StorageError("\n".join(f"{path} is damaged: {fault:.200}" for fault in [*faults[:10], *more])) from None
    if manifest.sha256 is not None and manifest.sha256 != sha256_of_values(written):
        raise StorageError(f"{path} is damaged: its sha256 is not the one that it names; copy the folder again")
    return manifest


def _in_newest_format(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says as the newest format says it."""
    if written["format"] != 1 or not isinstance(classes := written.get("classes"), dict):
        return dict(written)
    labels = {task: {"kind": "classes", "names": names} for task, names in classes.items()}
    return {**written, "labels": labels}


def sha256_of_values(manifest: Mapping[str, Any]) -> str:
    """The sha256 of what a manifest says, but for this number itself, however the JSON is laid out."""
    values = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
