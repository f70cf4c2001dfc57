"""Find, reach and prepare the MLflow store."""

import hashlib
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy import NullPool, create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from topwork.errors import StorageError, first_line
from topwork.experiment.schema import Tracking
from topwork.lab.processes import defer_signals, is_dead_here

#: Seconds to wait for a tracking server to answer before a run begins.
REACH_TIMEOUT = 5

#: Tags of a run: the process that writes it, its study, and the study's run.
PROCESS_TAG, STUDY_TAG, PARENT_TAG = "topwork.process", "topwork.study", "mlflow.parentRunId"


@dataclass(frozen=True)
class TrackingStore:
    """An MLflow store that has been reached, and the MLflow experiment in it."""

    uri: str
    experiment_id: str
    client: MlflowClient

    def defer_signals(self) -> AbstractContextManager[None]:
        """Delay signals while a database is written, so that no lock stays. Not for a server, which may be slow."""
        return nullcontext() if is_server(self.uri) else defer_signals()


def open_store(settings: Tracking, name: str) -> TrackingStore:
    """Reach the tracking store, create what is missing in it, and close runs that dead processes left open.

    Args:
        name: of the MLflow experiment, where ``settings`` name none.

    Raises:
        StorageError: the store cannot be reached; names the option to go on without it.
    """
    uri = tracking_uri_of(settings.uri)
    try:
        check_reachable(uri)
        if file := sqlite_file(uri):
            _check_writable(file)
        with _lock(uri):
            client = MlflowClient(tracking_uri=uri)
            experiment_id = _experiment_id(client, uri, settings.experiment or name)
        store = TrackingStore(uri, experiment_id, client)
        _close_orphans(store)
    except Exception as error:  # whatever mlflow, sqlalchemy or a database driver raises
        done = "reached" if is_server(uri) else "used"
        raise StorageError(
            f"the MLflow store {redact_uri(uri)} cannot be {done}: {first_line(error)}; "
            "fix that, or train without it: --set tracking.enabled=false"
        ) from error
    return store


def store_of(uri: str, experiment_id: str) -> TrackingStore:
    """Return a store that another process has opened."""
    return TrackingStore(uri, experiment_id, MlflowClient(tracking_uri=uri))


def tracking_uri_of(given: str | None) -> str:
    """A URI that was given, or MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = sqlite_file(uri)
    return f"sqlite:///{file}" if file else uri


def existing_uri(given: str | None) -> str:
    """Return the URI of an MLflow store that is there.

    Raises:
        StorageError: it is not.
    """
    uri = tracking_uri_of(given)
    if (file := sqlite_file(uri)) and not file.exists():  # mlflow would create it
        raise StorageError(f"there is no MLflow store {file}; name one with --uri, or set MLFLOW_TRACKING_URI")
    try:
        check_reachable(uri)
    except OSError as error:
        raise StorageError(f"the MLflow store {redact_uri(uri)} cannot be read: {error}") from error
    return uri


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextmanager
def resumed_run(store: TrackingStore, run_id: str) -> Iterator[None]:
    """Resume a run for functions of mlflow that log to its active run only; then restore mlflow's tracking URI."""
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        # None removes our setting. To read the URI beforehand would have made the default permanent.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # its signature does not say so
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable
        store.client.update_run(run_id, status="RUNNING")


def redact_uri(uri: str) -> str:
    """Return a URI that may be shown and logged."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def redact_text(text: str) -> str:
    """Return an experiment file's text without the passwords in its URIs, for all to see."""
    return re.sub(r"(://[\w.%+-]*):[^/@\s]+@", r"\1:***@", text)


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite store; None for another store."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def is_server(uri: str) -> bool:
    """Whether a tracking server writes the store, not this process."""
    return uri.startswith(("http://", "https://"))


def check_reachable(uri: str) -> None:
    """Check that a server or a database answers: mlflow itself would retry for minutes.

    Raises:
        OSError: it does not.
    """
    if not is_server(uri):
        _check_database(uri)
        return
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_TIMEOUT):
            pass
    except HTTPError as error:
        error.close()  # it holds the connection
        if error.code >= 500:
            raise OSError(str(error)) from None
    except URLError as error:
        raise OSError(str(error.reason)) from error


def _check_database(uri: str) -> None:
    """See whether a database can be read; files, which need no database, are left alone.

    Raises:
        OSError: it cannot.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in DATABASE_ENGINES:
        return
    arguments = {"connect_timeout": REACH_TIMEOUT} if kind in ("postgresql", "mysql") else {}
    try:
        engine = create_engine(uri, poolclass=NullPool, connect_args=arguments)
        inspect(engine).get_table_names()
    except (SQLAlchemyError, ImportError) as error:
        raise OSError(first_line(getattr(error, "orig", None) or error)) from error


def _check_writable(file: Path) -> None:
    """See whether a sqlite store can be written: mlflow itself would retry for minutes."""
    connection = sqlite3.connect(file, timeout=REACH_TIMEOUT)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


@contextmanager
def _lock(uri: str) -> Iterator[None]:
    """Let one process of this machine at a time create a database: two at once ruin it."""
    if is_server(uri):
        yield
        return
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"topwork-{os.getuid()}-{name}.lock"):
        yield


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {name!r} was deleted there but keeps its name; restore it, "
            "or choose another name with tracking.experiment"
        )
    if found is not None:
        return str(found.experiment_id)
    file = sqlite_file(uri)
    # Left alone, mlflow would fix the artifacts' place by the working directory of the first run ever.
    location = (file.parent / "mlruns" / name).as_uri() if file else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # the page for training, not for chat agents
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    except MlflowException as error:
        created = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or created is None:
            raise
        return str(created.experiment_id)  # another machine was quicker


def _close_orphans(store: TrackingStore) -> None:
    """Mark runs as KILLED whose process on this host is gone."""
    open_runs = store.client.search_runs(
        [store.experiment_id], filter_string="attributes.status = 'RUNNING'", run_view_type=ViewType.ACTIVE_ONLY
    )
    for run in open_runs:
        if is_dead_here(run.data.tags.get(PROCESS_TAG, "")):
            store.client.set_terminated(run.info.run_id, status="KILLED")
