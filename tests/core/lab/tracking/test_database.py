"""A database appears whole, and names the artifacts that are beside it, wherever both are moved."""

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from run_helpers import open_small_store, sql
from topwork.errors import StorageError
from topwork.lab.tracking.database import (
    artifact_folder,
    check_whole,
    check_writable,
    create_mlflow_database,
    follow_move,
)
from topwork.lab.tracking.store import existing_uri


def log_artifact(uri: str, *settings: str) -> str:
    """Log an artifact, and return its run."""
    store = open_small_store(uri, *settings)
    run_id: str = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(run_id, "kept", "note.txt")
    return run_id


def read_artifact(uri: str, run_id: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return Path(MlflowClient(tracking_uri=existing_uri(uri)).download_artifacts(run_id, "note.txt", folder)).read_text()


@pytest.fixture
def before(store_uri: str, tmp_path: Path) -> Path:
    """A folder with a store."""
    folder = tmp_path / "before and \u00e4"
    folder.mkdir()
    shutil.move(tmp_path / "mlflow.db", folder / "mlflow.db")
    return folder


def uri_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.mark.slow
def test_a_created_database_is_whole_and_its_artifacts_are_beside_it(tmp_path: Path) -> None:
    create_mlflow_database(tmp_path / "new" / "mlflow.db")
    check_whole(tmp_path / "new" / "mlflow.db")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mlflow.db"]
    default = MlflowClient(tracking_uri=uri_in(tmp_path / "new")).get_experiment("0")
    assert default.artifact_location == (tmp_path / "new" / "mlruns" / "0").as_uri()


@pytest.mark.parametrize(
    "damage", ["DROP TABLE span_metrics", "ALTER TABLE runs DROP COLUMN deleted_time", "DROP TABLE runs"]
)
def test_half_of_a_database_is_told_with_what_to_do(store_uri: str, tmp_path: Path, damage: str) -> None:
    sql(store_uri, damage)
    with pytest.raises(StorageError) as caught:
        open_small_store(store_uri)
    with pytest.raises(StorageError) as when_read:
        existing_uri(store_uri)
    assert (
        str(caught.value)
        == str(when_read.value)
        == (
            f"the MLflow store {store_uri} holds no runs and is not whole: a process was ended while it created it, "
            f"or an older mlflow did; remove it and run the same command again: rm {tmp_path}/mlflow.db"
        )
    )


def test_a_database_with_runs_is_never_said_to_be_half_of_one(store_uri: str, tmp_path: Path) -> None:
    log_artifact(store_uri)
    sql(store_uri, "DROP TABLE span_metrics")
    check_whole(tmp_path / "mlflow.db")


@pytest.mark.slow
def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert open_small_store(uri_in(tmp_path)).experiment_id


def test_a_database_that_may_not_be_written_is_seen(store_uri: str, tmp_path: Path) -> None:
    check_writable(tmp_path / "mlflow.db", 0.1)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            check_writable(tmp_path / "mlflow.db", 0.1)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("quickstart", "quickstart"),
        ("a study of 3", "a study of 3"),
        ("/Shared/x", "Shared-x-c6b2627c"),
        ("../../x", "x-9cdf6a50"),
        ("..", "-5ec1f7e7"),
        ("a/b", "a-b-c14cddc0"),
        ("a-b", "a-b"),
        ("x" * 300, f"{'x' * 50}-0d4e2ca9"),
    ],
)
def test_the_folder_of_artifacts_never_follows_the_name_out_of_mlruns(name: str, folder: str, tmp_path: Path) -> None:
    assert artifact_folder(tmp_path / "mlflow.db", name) == tmp_path / "mlruns" / folder


@pytest.mark.reliability("D57")
def test_artifacts_of_an_experiment_with_any_name_are_beside_the_database(store_uri: str, tmp_path: Path) -> None:
    for name in ("/Shared/x", "../../x"):
        log_artifact(store_uri, f"tracking.experiment={name}")
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("note.txt")}
    assert written == {"mlruns"}
    assert len(list(tmp_path.rglob("note.txt"))) == 2


def test_a_moved_store_finds_its_artifacts_and_goes_on_beside_them(
    before: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = log_artifact(uri_in(before))
    after = before.rename(tmp_path / "after")
    with caplog.at_level(logging.WARNING):
        assert read_artifact(uri_in(after), run_id, tmp_path / "read") == "kept"
    assert caplog.messages == [f"{after}/mlflow.db was moved: its artifacts are those in {after}/mlruns now"]
    another = log_artifact(uri_in(after))
    assert read_artifact(uri_in(after), another, tmp_path / "read") == "kept"
    assert not before.exists()
    assert len(caplog.messages) == 1


def test_a_store_that_was_moved_before_anything_was_logged_does_not_go_back(before: Path, tmp_path: Path) -> None:
    open_small_store(uri_in(before))
    after = before.rename(tmp_path / "after")
    log_artifact(uri_in(after))
    assert not before.exists()
    assert list(after.rglob("note.txt"))


@pytest.mark.slow
def test_a_copied_store_has_its_own_artifacts(before: Path, tmp_path: Path) -> None:
    run_id = log_artifact(uri_in(before))
    shutil.copytree(before, tmp_path / "copy")
    shutil.rmtree(before / "mlruns")
    assert read_artifact(uri_in(tmp_path / "copy"), run_id, tmp_path / "read") == "kept"


def test_a_database_that_was_moved_without_its_artifacts_still_finds_them(before: Path, tmp_path: Path) -> None:
    run_id = log_artifact(uri_in(before))
    (tmp_path / "after").mkdir()
    shutil.move(before / "mlflow.db", tmp_path / "after" / "mlflow.db")
    assert read_artifact(uri_in(tmp_path / "after"), run_id, tmp_path / "read") == "kept"


def test_artifacts_that_are_kept_elsewhere_on_purpose_stay_there(store_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=store_uri)
    places = {
        "bucket": "s3://bucket/mlruns/x",
        "other": f"file://{tmp_path}/other/x",
        "own": f"{tmp_path}/own/mlruns/x",
    }
    for name, location in places.items():
        client.create_experiment(name, artifact_location=location)
    (tmp_path / "own").mkdir()
    kept = [experiment.artifact_location for experiment in client.search_experiments()]
    follow_move(tmp_path / "mlflow.db")
    assert [experiment.artifact_location for experiment in client.search_experiments()][:3] == kept[:3]


def test_artifacts_on_a_disk_that_is_away_are_not_looked_for_elsewhere(before: Path, tmp_path: Path) -> None:
    run_id = log_artifact(uri_in(before))
    shutil.move(before / "mlflow.db", tmp_path / "mlflow.db")
    away = before.rename(tmp_path / "away")
    existing_uri(uri_in(tmp_path))
    away.rename(before)
    assert read_artifact(uri_in(tmp_path), run_id, tmp_path / "read") == "kept"


def test_a_moved_database_that_cannot_be_written_is_said(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact(uri_in(before))
    after = before.rename(tmp_path / "after")
    monkeypatch.setattr("topwork.lab.tracking.database._PLACES", (("no_such_table", "place"),))
    with pytest.raises(StorageError) as caught:
        follow_move(after / "mlflow.db")
    assert str(caught.value) == (
        f"{after}/mlflow.db was moved, and where its artifacts are now cannot be written into it: "
        "no such table: no_such_table"
    )
