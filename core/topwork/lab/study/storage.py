"""Where a study's trials are kept: a database that several processes and machines share."""

import shlex
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from topwork.errors import StorageError, first_line
from topwork.files import create_database

#: Seconds between two heartbeats of a trial, and after which a trial without one counts as dead. They are for
#: processes of other machines; those of this one are looked at directly.
HEARTBEAT_SECONDS, GRACE_SECONDS = 20, 90

#: How often to try where another process is creating the same tables.
ATTEMPTS = 5


def check_url(url: str) -> None:
    """Check a database's URL without reaching for it.

    Raises:
        StorageError: it is none, or one that workers could not share.
    """
    try:
        make_url(url).get_dialect()
    except SQLAlchemyError as error:
        raise _unusable(url, error) from None
    if is_local(url) and sqlite_path(url) is None:
        raise StorageError(f"study.storage {url} is kept in memory, where workers cannot share it; give a file")


def open_storage(url: str) -> RDBStorage:
    """Reach the database and create what is missing in it.

    Raises:
        StorageError: it cannot be reached, or its driver is not installed.
    """
    check_url(url)
    local = is_local(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for attempt in range(ATTEMPTS):
        try:
            if file := sqlite_path(url):
                _create_database(url, file)
                _check_whole(url, file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # that is, of heartbeats
                return RDBStorage(
                    url,
                    engine_kwargs={"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT_SECONDS,
                    grace_period=GRACE_SECONDS,
                )
        except ImportError as error:
            hint = "; pip install 'topwork[postgresql]'" if "psycopg" in str(error) else ""
            raise StorageError(
                f"study.storage {redacted(url)} needs a driver that is not installed: {error}{hint}"
            ) from None
        except (SQLAlchemyError, OptunaError, OSError, ValueError) as error:
            if attempt == ATTEMPTS - 1 or isinstance(error, OSError | ValueError):
                raise _unusable(url, error) from error
            time.sleep(0.2 * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


def close(storage: RDBStorage) -> None:
    """Close the connections to the database."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def report_errors(url: str) -> Iterator[None]:
    """Say what is wrong with the database where something is, while it is used.

    Raises:
        StorageError: something is.
    """
    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        raise StorageError(
            f"study.storage {redacted(url)} failed: {_reason(error)}; fix that, then run the same command to resume"
        ) from error


@contextmanager
def locked(storage: RDBStorage) -> Iterator[None]:
    """Let one process at a time, of any machine, change the queue. The lock ends with the process that holds it."""
    storage.remove_session()  # what an interrupted step left open would stand in the way
    if file := sqlite_path(storage.url):
        with FileLock(f"{file}.lock"):
            yield
        return
    with storage.engine.begin() as connection:  # a row that Optuna never writes again
        connection.execute(text("SELECT version_info_id FROM version_info FOR UPDATE"))
        yield


def is_local(url: str) -> bool:
    """Whether the database is a file of this machine."""
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except SQLAlchemyError:
        return False  # opening it says what is wrong with it


def sqlite_path(url: str) -> Path | None:
    """The file of a local database; None for another."""
    name = make_url(url).database if is_local(url) else None
    return Path(name) if name and name != ":memory:" else None


def redacted(url: str) -> str:
    """Return a URL that may be shown and logged, without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "<not a URL>"


def _create_database(url: str, file: Path) -> None:
    """Create a local database where there is none, so that it appears with all its tables."""

    def build(temporary: Path) -> None:
        close(RDBStorage(make_url(url).set(database=str(temporary)).render_as_string(hide_password=False)))

    create_database(file, build)


def _check_whole(url: str, file: Path) -> None:
    """See whether a database without a study has all that Optuna creates in one.

    Raises:
        StorageError: it has not.
    """
    names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    with closing(sqlite3.connect(file)) as connection:
        made = {name for (name,) in connection.execute(names)}
        if "studies" in made and connection.execute("SELECT 1 FROM studies LIMIT 1").fetchone():
            return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "study.db"
        close(RDBStorage(f"sqlite:///{whole}"))
        with closing(sqlite3.connect(whole)) as connection:
            missing = {name for (name,) in connection.execute(names)} - made
    if missing:
        raise StorageError(
            f"study.storage {redacted(url)} holds no study and is not whole: a process was ended while it created it; "
            f"remove it, then run the same command again: rm {shlex.quote(str(file))}"
        )


def _unusable(url: str, error: Exception) -> StorageError:
    return StorageError(
        f"study.storage {redacted(url)} cannot be used: {_reason(error)}; give a URL such as "
        "sqlite:///study.db or postgresql://user@host/database"
    )


def _reason(error: Exception) -> str:
    """The first line of what a database driver says."""
    cause = error.__cause__ if isinstance(error, OptunaError) and error.__cause__ else error
    return first_line(getattr(cause, "orig", None) or cause)
