"""A study's database is reached or refused with the reason, and shared by one process at a time."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from topwork.errors import StorageError
from topwork.lab.study import storage as storage_module
from topwork.lab.study.storage import (
    GRACE_SECONDS,
    HEARTBEAT_SECONDS,
    check_url,
    close,
    is_local,
    locked,
    open_storage,
    redacted,
    report_errors,
    sqlite_path,
)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////proc/nowhere/study.db", "study.storage sqlite:////proc/nowhere/study.db cannot be used: "),
        ("postgresql://me:secret@127.0.0.1:9/x", "study.storage postgresql://me:***@127.0.0.1:9/x cannot be used: "),
        ("rubbish", "study.storage <not a URL> cannot be used: "),
        ("sqlite://", "study.storage sqlite:// is kept in memory, where workers cannot share it; give a file"),
        ("sqlite+pysqlite:////proc/x.db", "study.storage sqlite+pysqlite:////proc/x.db cannot be used: "),
        ("mysql://me@127.0.0.1/x", "study.storage mysql://me@127.0.0.1/x needs a driver that is not installed: "),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "ATTEMPTS", 1)
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["rubbish", "sqlite://", "sqlite:///:memory:", "nosuch://host/database"])
def test_a_url_that_cannot_serve_is_refused_without_reaching_for_it(url: str) -> None:
    with pytest.raises(StorageError, match=r"study\.storage .*(give a URL such as|give a file)"):
        check_url(url)


@pytest.mark.parametrize("url", ["sqlite:///study.db", "postgresql://me@nowhere.invalid/database"])
def test_a_url_that_could_serve_is_not_reached_for(url: str, tmp_path: Path) -> None:
    check_url(url)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_created_and_found_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'study.db'}"
    storage = open_storage(url)
    optuna.create_study(study_name="pair", storage=storage)
    close(storage)
    again = open_storage(url)
    assert [study.study_name for study in again.get_all_studies()] == ["pair"]
    assert (again.heartbeat_interval, again.grace_period) == (HEARTBEAT_SECONDS, GRACE_SECONDS)
    close(again)


@pytest.mark.reliability("C46")
def test_several_may_create_a_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with ThreadPoolExecutor(4) as pool:
        storages = list(pool.map(open_storage, [url] * 4))
    for storage in storages:
        assert storage.get_all_studies() == []
        close(storage)


@pytest.mark.slow
def test_a_database_that_was_interrupted_while_it_was_created_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object, **settings: object) -> None:
        assert not (tmp_path / "study.db").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "RDBStorage", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    assert not list(tmp_path.iterdir())
    close(open_storage(f"sqlite:///{tmp_path / 'study.db'}"))


def test_half_of_a_database_is_told_with_what_to_do(url: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("DROP TABLE trial_values")
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert str(caught.value) == (
        f"study.storage {url} holds no study and is not whole: a process was ended while it created it; "
        f"remove it, then run the same command again: rm {tmp_path}/study.db"
    )


def test_one_at_a_time_hands_out_trials(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    lock = FileLock(tmp_path / "study.db.lock")
    with locked(storage), pytest.raises(Timeout):
        lock.acquire(timeout=0)
    with lock.acquire(timeout=0):
        pass
    with pytest.raises(ValueError, match="something else"), locked(storage):
        raise ValueError("something else")
    with lock.acquire(timeout=0):
        pass
    close(storage)


@pytest.mark.reliability("C45")
def test_a_database_that_fails_while_it_is_used_is_told_with_what_to_do(url: str) -> None:
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.execute(text("DROP TABLE studies"))
    with pytest.raises(StorageError) as caught, report_errors(url):
        optuna.create_study(study_name="pair", storage=storage)
    assert str(caught.value).startswith(f"study.storage {url} failed: no such table: studies")
    assert str(caught.value).endswith("; fix that, then run the same command to resume")
    close(storage)


def test_what_optuna_says_of_a_database_is_said_in_the_words_of_the_database() -> None:
    cause = OperationalError("SELECT 1", None, ValueError("disk full\nand more"))
    said = r"^study\.storage sqlite:///a\.db failed: disk full; fix that"
    with pytest.raises(StorageError, match=said), report_errors("sqlite:///a.db"):
        raise StorageInternalError("an exception is raised") from cause


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="something else"), report_errors("sqlite:///a.db"):
        raise ValueError("something else")


@pytest.mark.parametrize(
    ("url", "local", "path"),
    [
        ("sqlite:///a/study.db", True, Path("a/study.db")),
        ("sqlite+pysqlite:////a/study.db", True, Path("/a/study.db")),
        ("sqlite://", True, None),
        ("sqlite:///:memory:", True, None),
        ("postgresql://host/database", False, None),
        ("rubbish", False, None),
    ],
)
def test_a_database_of_this_machine_is_told_from_others(url: str, local: bool, path: Path | None) -> None:
    assert (is_local(url), sqlite_path(url)) == (local, path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("rubbish with a secret", "<not a URL>"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown
