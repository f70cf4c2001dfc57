"""The sqlite database of an MLflow store, and the artifacts in ``mlruns`` beside it."""

import hashlib
import logging
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from topwork.errors import StorageError, first_line
from topwork.files import create_database

#: Where mlflow writes the places of artifacts, besides those of experiments.
_PLACES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("model_versions", "storage_location"))

logger = logging.getLogger(__name__)


def create_mlflow_database(file: Path) -> None:
    """Create a store's tables, which takes mlflow seconds and many steps, so that the file appears with all of them.

    Raises:
        OSError, sqlite3.Error: it cannot be written.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # a second of imports, seldom needed

    def build(temporary: Path) -> None:
        check_writable(temporary, timeout=0)  # mlflow itself would retry for minutes
        artifacts = (file.parent / "mlruns").as_uri()
        store = SqlAlchemyStore(f"sqlite:///{temporary}", artifacts)  # type: ignore[no-untyped-call]  # mlflow's
        store.engine.dispose()

    create_database(file, build)


def check_writable(file: Path, timeout: float) -> None:
    """See within some seconds whether a database can be written: mlflow itself would retry for minutes.

    Raises:
        sqlite3.Error: it cannot.
    """
    with closing(sqlite3.connect(file, timeout=timeout)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def check_whole(file: Path) -> None:
    """See whether a database that holds no runs has all that mlflow creates in one.

    Raises:
        StorageError: it has not.
    """
    # Here it has all tables; in the module that defines it, none yet.
    from mlflow.store.db.utils import Base  # type: ignore[attr-defined]  # mlflow marks no exports

    with closing(sqlite3.connect(file)) as connection:
        made = connection.execute(
            "SELECT m.name, p.name FROM sqlite_master m, pragma_table_xinfo(m.name) p WHERE m.type = 'table'"
        ).fetchall()
        empty = ("runs", "run_uuid") not in made or not connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone()
    wanted = {(name, column.name) for name, table in Base.metadata.tables.items() for column in table.columns}
    if made and empty and not wanted.issubset(made):
        raise StorageError(
            f"the MLflow store sqlite:///{file} holds no runs and is not whole: a process was ended while it created "
            f"it, or an older mlflow did; remove it and run the same command again: rm {shlex.quote(str(file))}"
        )


def artifact_folder(file: Path, experiment: str) -> Path:
    """The folder for the artifacts of a new MLflow experiment, beside the database whatever the experiment's name."""
    name = experiment
    if not re.fullmatch(r"\w[\w .-]{0,99}", name, re.ASCII):
        slug = re.sub(r"[^\w.-]+", "-", name)[:50].strip("-.")
        name = f"{slug}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return file.parent / "mlruns" / name


def follow_move(file: Path) -> None:
    """Where a database was moved or copied with its folder, let it name the artifacts that are beside it now.

    MLflow keeps absolute places. A place that holds artifacts while the folder beside the database does not is right.

    Raises:
        StorageError: the database cannot be written.
    """
    with closing(sqlite3.connect(file)) as connection:
        try:
            experiments = connection.execute(
                "SELECT experiment_id, artifact_location, EXISTS (SELECT 1 FROM runs r WHERE r.experiment_id = "
                "e.experiment_id) FROM experiments e"
            ).fetchall()
        except sqlite3.Error:
            return  # what follows says what is wrong with it
        moved = {
            number: (old, new)
            for number, old, used in experiments
            if old and (new := _moved_to(old, file.parent, used=bool(used)))
        }
        if not moved:
            return
        try:
            with connection:
                for number, (old, new) in moved.items():
                    connection.execute(
                        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number)
                    )
                    for table, column in _PLACES:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                            (new, len(old) + 1, len(old) + 1, f"{old}/"),
                        )
        except sqlite3.Error as error:
            raise StorageError(
                f"{file} was moved, and where its artifacts are now cannot be written into it: {first_line(error)}"
            ) from error
    logger.warning("%s was moved: its artifacts are those in %s now", file, file.parent / "mlruns")


def _moved_to(location: str, folder: Path, *, used: bool) -> str | None:
    """Return where the artifacts at ``location`` are, written alike, where ``folder`` holds them now; else None.

    Where they are at neither place, what is ``used`` may be on a disk that is away.
    """
    if not location.startswith(("file:", "/")):
        return None  # in an object store, or at a server
    path = Path(url2pathname(urlsplit(location).path) if location.startswith("file:") else location)
    roots = [parent.parent for parent in path.parents if parent.name == "mlruns"]
    if not roots or roots[0] == folder:
        return None
    here = folder / path.relative_to(roots[0])
    if not here.exists() and (used or roots[0].exists()):
        return None
    return here.as_uri() if location.startswith("file:") else str(here)
