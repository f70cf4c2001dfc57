"""What is written to an MLflow run at once; it can wait on disk until the store takes it."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient, pyfunc
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.model_manifest import PLUGINS
from topwork.lab.tracking.store import TrackingStore, tracking_uri_set

#: MLflow takes 1,000 at once.
MAX_METRICS_PER_BATCH = 1000


class Source(BaseModel):
    """Rows that a run was trained on."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    kind: str
    uri: str
    context: str


class ServedModel(BaseModel):
    """A trained model to be stored with a run.

    Attributes:
        folder: where it is.
        example: texts that it can be asked about.
        requirements: the packages that it needs.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    example: list[str]
    requirements: list[str]


class Write(BaseModel):
    """Something to be written to an MLflow run: what is not empty.

    Attributes:
        what: it is, for people.
        create: the tags of a run that is yet to be created, by the name in ``what``.
        metrics: name, value, milliseconds since 1970, and step.
        parameters, tags: by name.
        sources: of its rows.
        artifact: the path of a file among the run's artifacts.
        content: of that file.
        model: the trained model.
        status: of the run.
    """

    model_config = ConfigDict(
        frozen=True, ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64"
    )

    what: str
    create: dict[str, str] | None = None
    metrics: list[tuple[str, float, int, int]] = []
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}
    sources: list[Source] = []
    artifact: str = ""
    content: bytes = b""
    model: ServedModel | None = None
    status: str = ""


class RunEditor:
    """Carries out writes to one MLflow run.

    Args:
        reopened: whether another process wrote to the run; what it wrote is not written again.
        created: is called with MLflow's id of a run that is created.
    """

    def __init__(
        self, store: TrackingStore, run_id: str, *, reopened: bool, created: Callable[[str], None] = lambda run_id: None
    ) -> None:
        self.store = store
        self._created = created
        self.run_id = run_id
        self.reopened = reopened
        self._known: set[tuple[str, int]] | None = None if reopened else set()

    def apply(self, write: Write) -> None:
        """Write to the run; may raise whatever MLflow, its store, its server or its disk raises."""
        client = self.store.client
        if write.create is not None:
            run = client.create_run(self.store.experiment_id, run_name=write.what, tags=write.create)
            self.run_id = run.info.run_id
            self._created(self.run_id)
        if write.metrics:
            self._log_metrics(write.metrics)
        if write.parameters:
            self._log_parameters(write.parameters)
        if write.tags:
            client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in write.tags.items()])
        if write.sources:
            client.log_inputs(self.run_id, datasets=[_described(source) for source in write.sources])
        if write.artifact:
            log_file(client, self.run_id, write.artifact, write.content)
        if write.model:
            self._log_model(write.model)
        if write.status == "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        elif write.status:
            client.set_terminated(self.run_id, status=write.status)

    def _log_metrics(self, metrics: Sequence[tuple[str, float, int, int]]) -> None:
        if self._known is None:
            names = self.store.client.get_run(self.run_id).data.metrics
            histories = [self.store.client.get_metric_history(self.run_id, name) for name in names]
            self._known = {(metric.key, metric.step) for history in histories for metric in history}
        new = [Metric(*metric) for metric in metrics if (metric[0], metric[3]) not in self._known]
        if self.reopened:
            self._known |= {(metric.key, metric.step) for metric in new}
        for start in range(0, len(new), MAX_METRICS_PER_BATCH):
            self.store.client.log_batch(self.run_id, metrics=new[start : start + MAX_METRICS_PER_BATCH])

    def _log_parameters(self, values: Mapping[str, str]) -> None:
        """Log parameters; MLflow lets none change, so what a run that goes on has changed is a tag."""
        known = self.store.client.get_run(self.run_id).data.params if self.reopened else {}
        changed = {name: value for name, value in values.items() if known.get(name, value) != value}
        tags = [RunTag(f"changed.{name}", f"{known[name]} then, {value} now") for name, value in changed.items()]
        new = [Param(name, value) for name, value in values.items() if name not in known]
        self.store.client.log_batch(self.run_id, params=new, tags=tags)

    def _log_model(self, served: ServedModel) -> None:
        if self.reopened and self._has_model():
            return
        if not served.folder.exists():
            raise ValueError(f"{served.folder} is gone")
        # Not by mlflow.pyfunc.log_model, which takes run and experiment from what is active in this process.
        client = self.store.client
        model = client.create_logged_model(
            self.store.experiment_id,
            name="model",
            source_run_id=self.run_id,
            params=client.get_run(self.run_id).data.params,
        )
        with tracking_uri_set(self.store.uri):
            Model.log(
                artifact_path=None,
                flavor=pyfunc,
                name="model",
                run_id=self.run_id,
                model_id=model.model_id,
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"model": str(served.folder)},
                input_example=served.example,
                pip_requirements=served.requirements,
                model_config={"trust_plugins": False} if (served.folder / PLUGINS).is_dir() else None,
            )

    def _has_model(self) -> bool:
        """Whether an earlier process stored the model; what it left unfinished is removed."""
        client = self.store.client
        found = client.search_logged_models([self.store.experiment_id], f"source_run_id = '{self.run_id}'")
        for model in found:
            if model.status != LoggedModelStatus.READY:
                client.delete_logged_model(model.model_id)
        return any(model.status == LoggedModelStatus.READY for model in found)


def is_absence(error: Exception) -> bool:
    """Whether an error says that a store is away, locked or full, and not that it refuses what it was told."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)  # type: ignore[no-untyped-call]  # mlflow's
    return isinstance(error, OSError | SQLAlchemyError)


def log_file(client: MlflowClient, run_id: str, path: str, content: bytes) -> None:
    """Store a file among a run's artifacts."""
    place = PurePosixPath(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / place.name
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), str(place.parent) if len(place.parts) > 1 else None)


def _described(source: Source) -> DatasetInput:
    dataset = Dataset(source.name, source.digest, source.kind, source.uri)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", source.context)])
