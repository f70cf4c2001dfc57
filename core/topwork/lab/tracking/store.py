"""Find, reach and prepare the MLflow store."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import NullPool, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError

from topwork.errors import StorageError, first_line
from topwork.experiment.schema import Tracking
from topwork.lab.processes import defer_signals
from topwork.lab.tracking.database import (
    artifact_folder,
    check_whole,
    check_writable,
    create_mlflow_database,
    follow_move,
)
from topwork.process_name import is_dead_here

#: Seconds to wait for a tracking server to answer before a run begins.
REACH_TIMEOUT = 5

#: Tags of a run: the process that writes it, its study, and the study's run.
PROCESS_TAG, STUDY_TAG, PARENT_TAG = "topwork.process", "topwork.study", "mlflow.parentRunId"

#: A run's tag that says why it did not end well.
REASON_TAG = "topwork.reason"


@dataclass(frozen=True)
class TrackingStore:
    """An MLflow store that has been reached, or was by an earlier process, and the MLflow experiment in it.

    Attributes:
        away: whether it does not answer now.
    """

    uri: str
    experiment_id: str
    client: MlflowClient
    away: bool = False

    def defer_signals(self) -> AbstractContextManager[None]:
        """Delay signals while a database is written, so that no lock stays. Not for a server, which may be slow."""
        return nullcontext() if is_server(self.uri) else defer_signals()


def open_store(settings: Tracking, name: str) -> TrackingStore:
    """Reach the tracking store, create what is missing in it, and close runs that dead processes left open.

    Args:
        name: of the MLflow experiment, where neither ``settings`` nor MLFLOW_EXPERIMENT_NAME name one.

    Raises:
        StorageError: the store cannot be reached; names the option to go on without it.
    """
    uri = tracking_uri_of(settings.uri)
    try:
        with _lock(uri):
            if (file := sqlite_file(uri)) and not (file.exists() and file.stat().st_size):
                create_mlflow_database(file)
            check_reachable(uri)
            if file:
                check_writable(file, REACH_TIMEOUT)
                check_whole(file)
                follow_move(file)
            client = MlflowClient(tracking_uri=uri)
            named = settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
            experiment_id = _experiment_id(client, uri, named)
        store = TrackingStore(uri, experiment_id, client)
        _close_orphans(store)
    except StorageError:
        raise
    except Exception as error:  # whatever mlflow, sqlalchemy or a database driver raises
        done = "reached" if is_server(uri) else "used"
        raise StorageError(
            f"the MLflow store {redact_uri(uri)} cannot be {done}: {redact_uri(first_line(root_cause(error)))}; "
            "fix that, or train without it: --set tracking.enabled=false"
        ) from error
    return store


def store_of(uri: str, experiment_id: str, *, away: bool = False) -> TrackingStore:
    """Return a store that another process has opened."""
    return TrackingStore(uri, experiment_id, MlflowClient(tracking_uri=uri), away)


def tracking_uri_of(given: str | None) -> str:
    """Return a URI that was given, or MLFLOW_TRACKING_URI, or mlflow.db in the working directory.

    Raises:
        StorageError: MLflow cannot use a database of such a path.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = sqlite_file(uri)
    if file and re.search(r"[?#%]", str(file)):
        raise StorageError(f"MLflow cannot use a database whose path has ?, # or %: {file}; give another tracking.uri")
    return make_url(uri).set(database=str(file)).render_as_string(hide_password=False) if file else uri


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
        raise StorageError(f"the MLflow store {redact_uri(uri)} cannot be read: {redact_uri(str(error))}") from error
    if file:
        check_whole(file)
        follow_move(file)
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
def tracking_uri_set(uri: str) -> Iterator[None]:
    """Set mlflow's tracking URI for functions of it that take none; then it is as it was."""
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        # None removes our setting; one of the caller's is in the variable too. To read the URI beforehand would have
        # made the default permanent.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # its signature does not say so
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


def redact_uri(uri: str) -> str:
    """Return a URI that may be shown and logged."""
    return re.sub(r"//[^/\s]*@", "//***@", uri)


def redact_text(text: str) -> str:
    """Return an experiment file's text without the passwords in its URIs, for all to see."""
    hidden = re.sub(r"(://[^\s/:@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(https?://)[^\s/:@]+@", r"\1***@", hidden)  # a token


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite store; None for another store."""
    try:
        url = make_url(uri)
    except (SQLAlchemyError, ValueError):
        return None  # reaching for it says what is wrong with it
    in_file = url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:"))
    return Path(str(url.database)).resolve() if in_file else None


def is_server(uri: str) -> bool:
    """Whether a tracking server writes the store, not this process."""
    return uri.lower().startswith(("http://", "https://"))


def check_reachable(uri: str) -> None:
    """Check that a server or a database answers: mlflow itself would retry for minutes.

    Raises:
        OSError: it does not.
    """
    if not is_server(uri):
        _check_database(uri)
        return
    _bypass_proxies(uri)
    try:  # as mlflow will ask, with its settings for certificates and passwords
        answer = http_request(  # type: ignore[no-untyped-call]  # mlflow's
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]  # mlflow's
            "/health",
            "GET",
            max_retries=0,
            timeout=REACH_TIMEOUT,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise OSError(first_line(root_cause(error))) from error
    if answer.status_code >= 500:
        raise OSError(f"HTTP {answer.status_code} {answer.reason}")


def _bypass_proxies(uri: str) -> None:
    """Let this process, and those that it starts, reach servers of this machine without the proxy for others.

    Raises:
        OSError: the URI is none.
    """
    try:
        host = urlsplit(uri).hostname or ""
    except ValueError as error:
        raise OSError(first_line(error)) from error
    if getproxies_environment() and (host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")):
        for variable in ("no_proxy", "NO_PROXY"):
            hosts = os.environ.get(variable, "").split(",")
            os.environ[variable] = ",".join(filter(None, dict.fromkeys([*hosts, host])))


def root_cause(error: BaseException) -> BaseException:
    """The error that the others around it were raised for: libraries wrap one in another."""
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    return error


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
    location = artifact_folder(file, name).as_uri() if file else None
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
