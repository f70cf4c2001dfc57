"""Read finished runs back from MLflow."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.errors import ConfigurationError, StorageError, did_you_mean, first_line
from topwork.lab.tracking.store import PARENT_TAG, STUDY_TAG, existing_uri, flatten, redact_uri
from topwork.plugin_file import PluginFile, read_plugin_file

#: The artifact with the outputs of a run's model for the rows that it was evaluated on.
OUTPUTS_FILE = "outputs.safetensors"

#: The folder of artifacts with the plugin files of a run.
PLUGINS = "plugins"


@dataclass(frozen=True)
class FinishedRun:
    """A run as MLflow has it.

    Attributes:
        name: the run's name.
        settings: every setting of its experiment, by path.
        heads: the settings of each task's head.
        files: its plugin files.
        outputs: of its model, for the rows that it was evaluated on.
    """

    name: str
    settings: dict[str, str]
    heads: dict[str, Any]
    files: list[PluginFile]
    outputs: SplitOutputs


def find_runs(wanted: Sequence[str], uri: str | None) -> list[FinishedRun]:
    """Read runs by MLflow's run id or by name, in that order.

    Raises:
        ConfigurationError: a run is not there, several have its name, or it kept no outputs; names all such. Or two
            are the same.
        StorageError: the store cannot be read.
    """
    uri = existing_uri(uri)
    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        known = _all_runs(client, experiments)
        found = [_choose(name, known, uri) for name in wanted]
        errors = [run for run in found if isinstance(run, str)]
        if errors:
            raise ConfigurationError("\n".join(errors))
        if len({run.info.run_id for run in found if isinstance(run, Run)}) < len(found):
            raise ConfigurationError(f"name different runs to compare: some of {', '.join(wanted)} are the same run")
        return [_read(client, run) for run in found if isinstance(run, Run)]
    except (MlflowException, OSError) as error:
        raise StorageError(f"the MLflow store {redact_uri(uri)} cannot be read: {first_line(error)}") from error


def find_outputs(client: MlflowClient, run_id: str) -> str | None:
    """Return the path of the artifact with a run's outputs; None where it has none.

    It is the only safetensors file at the top; earlier versions gave it another name.
    """
    paths = (artifact.path for artifact in client.list_artifacts(run_id))
    return next((path for path in paths if path.endswith(".safetensors")), None)


def _all_runs(client: MlflowClient, experiments: list[str]) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _choose(wanted: str, runs: Sequence[Run], uri: str) -> Run | str:
    """Return the run that is meant, or say why there is none."""
    by_id = [run for run in runs if run.info.run_id == wanted]
    named = by_id or [run for run in runs if run.info.run_name == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        return f"{len(named)} runs are named {wanted!r}; give an id: {', '.join(run.info.run_id for run in named)}"
    hint = did_you_mean(wanted, [str(run.info.run_name) for run in runs])
    return f"there is no run {wanted!r} in {redact_uri(uri)}, by name or id{hint}"


def _read(client: MlflowClient, run: Run) -> FinishedRun:
    name = str(run.info.run_name)
    if STUDY_TAG in run.data.tags and PARENT_TAG not in run.data.tags:
        raise ConfigurationError(f"run {name} is a study; compare its trials, {name}-0 and so on")
    artifact = find_outputs(client, run.info.run_id)
    if artifact is None:
        raise ConfigurationError(
            f"run {name} ({run.info.status}) did not keep its model's outputs for each row, so it cannot be compared; "
            "compare finished runs that topwork has logged"
        )
    with tempfile.TemporaryDirectory() as folder:
        content = Path(client.download_artifacts(run.info.run_id, artifact, folder)).read_bytes()
        settings = Path(client.download_artifacts(run.info.run_id, "experiment.resolved.yaml", folder)).read_text(
            "utf-8"
        )
        experiment = YAML(typ="safe", pure=True).load(settings)
        files = [_plugin_file(client, run, entry, folder) for entry in experiment.get("plugins", ())]
    heads = {task: described["head"] for task, described in experiment["tasks"].items()}
    flat = {path: str(value) for path, value in flatten(experiment).items() if path not in ("name", "plugins")}
    if files:
        flat["plugins"] = ", ".join(f"{file.path.name} {file.version}" for file in files)
    return FinishedRun(name, flat, heads, files, SplitOutputs.from_bytes(content, name=f"{artifact} of run {name}"))


def _plugin_file(client: MlflowClient, run: Run, entry: Mapping[str, str], folder: str) -> PluginFile:
    """Return a plugin file of a run.

    Raises:
        StorageError: it is not what the run was trained with.
    """
    artifact = f"{PLUGINS}/{Path(entry['path']).name}"
    file = read_plugin_file(Path(client.download_artifacts(run.info.run_id, artifact, folder)))
    if file.sha256 != entry["sha256"]:
        raise StorageError(f"{artifact} of run {run.info.run_name} is damaged: its sha256 is not the one that it had")
    return file
