"""Send what an MLflow run was to get while the store was away."""

import os
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from topwork.errors import ConfigurationError, StorageError, first_line
from topwork.files import holding
from topwork.lab.run_folder import RunFolder, RunTraining
from topwork.lab.run_record import read_record
from topwork.lab.tracking.store import TrackingStore, existing_uri, redact_uri, root_cause, sqlite_file
from topwork.lab.tracking.write import RunEditor


def sync(run: str | Path, *, uri: str | None = None) -> int:
    """Send what the MLflow runs of a run are yet to get; return how many writes were sent.

    Args:
        run: its folder.
        uri: of the MLflow store, where it is another than the run was begun with, or has a password.

    Raises:
        StorageError: the store does not answer, nothing says which MLflow run it is, or another process trains the
            run; what was not sent still waits.
    """
    path = Path(run)
    folder = RunFolder(path, read_record(path), resumed=True)
    waiting = [training for training in folder.trainings() if training.unsent.paths()]
    if not waiting:
        return 0
    with holding(path, "trained"):
        store = store_of_run(folder, uri)
        return _send_all(store, waiting)


def store_of_run(run: RunFolder, uri: str | None) -> TrackingStore:
    """Reach the store that a run was begun with.

    Raises:
        ConfigurationError: the password for it is not known.
        StorageError: it does not answer.
    """
    noted = absolute_uri(run.record.tracking_uri, run.path)
    if uri is None and "***@" in noted:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise ConfigurationError(f"the password of {noted} is not kept; give the whole URI with --uri")
    reached = existing_uri(uri or noted)
    return TrackingStore(reached, run.record.experiment_id, MlflowClient(tracking_uri=reached))


def relative_uri(uri: str, path: Path) -> str:
    """Return the URI of a store to be noted in a run: a sqlite file from the folder of the run, and no password."""
    file = sqlite_file(uri)
    return f"sqlite:///{os.path.relpath(file.resolve(), path.resolve())}" if file else redact_uri(uri)


def absolute_uri(noted: str, path: Path) -> str:
    """Return what ``relative_uri`` noted as it was, but for a password."""
    if not noted.startswith("sqlite:///"):
        return noted
    return f"sqlite:///{os.path.normpath(path.resolve() / noted.removeprefix('sqlite:///'))}"


def _send_all(store: TrackingStore, waiting: Sequence[RunTraining]) -> int:
    sent = 0
    for training in waiting:
        if not (training.mlflow_id or training.unsent.creates_run):
            raise StorageError(f"nothing says of which MLflow run the writes in {training.unsent.folder} are")
        editor = RunEditor(store, training.mlflow_id or "", reopened=True, created=training.set_mlflow_id)
        try:
            sent += training.unsent.send(editor)
        except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
            left = sum(len(one.unsent.paths()) for one in waiting)
            raise StorageError(
                f"the MLflow store {redact_uri(store.uri)} does not answer: "
                f"{redact_uri(first_line(root_cause(error)))}; {left} writes still wait"
            ) from error
    return sent
