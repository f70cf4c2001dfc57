"""A tracking server that goes away in the middle costs a run nothing."""

import logging
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_server import Server, running
from run_helpers import only_run, small
from topwork.engine.observer import Epoch, Observer
from topwork.errors import ConfigurationError, StorageError
from topwork.experiment.schema import Experiment
from topwork.lab.run_folder import RunFolder
from topwork.lab.run_record import RunRecord, read_record
from topwork.lab.runs import train, train_seeds
from topwork.lab.tracking.sync import absolute_uri, relative_uri, store_of_run, sync
from topwork.lab.tracking.write import Write
from waiting import wait_for


class Ending(Observer):
    """Sends a signal to the server after the first epoch of a training."""

    def __init__(self, server: Server, number: int, training: str = "") -> None:
        self.server, self.number, self.training, self.current = server, number, training, ""

    def run(self, name: str) -> None:
        self.current = name

    def epoch(self, epoch: Epoch) -> None:
        if epoch.number == 1 and self.current == self.training:
            self.server.send(self.number)


def experiment_at(server: Server, *settings: str) -> Experiment:
    return small(f"tracking.uri={server.uri}", "training.epochs=3", "training.patience=null", *settings)


@pytest.mark.slow
@pytest.mark.reliability("D53", "D54")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_what_a_server_that_went_away_was_to_get_is_sent_when_it_is_back(
    store_uri: str, tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as server, caplog.at_level(logging.WARNING):
        result = train(experiment_at(server), output=tmp_path / "m", observer=Ending(server, number))
        assert f"the MLflow store {server.uri} does not answer: " in caplog.text
        assert f"send them with: topwork sync {tmp_path / 'runs' / 'm'}" in caplog.text
        assert read_record(tmp_path / "runs" / "m").state == "finished"
        with pytest.raises(StorageError, match=r"the MLflow store .* cannot be read: "):
            sync(tmp_path / "runs" / "m")
        if number == signal.SIGKILL:
            server.start()
        else:
            server.send(signal.SIGCONT)
            wait_for(server.answers)
        run = only_run(server.uri)
        assert run.info.status == "RUNNING"
        assert sync(tmp_path / "runs" / "m") > 5
        assert sync(tmp_path / "runs" / "m") == 0
        run, client = only_run(server.uri), MlflowClient(tracking_uri=server.uri)
        assert run.info.status == "FINISHED"
        for name, values in {
            "training/loss": [(one.number, one.metrics["training/loss"]) for one in result.epochs],
            "best_epoch": [(result.best_epoch, result.best_epoch)],
        }.items():
            assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)] == values
        files = {one.path for one in client.list_artifacts(run.info.run_id)}
        assert {"figures", "outputs.safetensors", "plan.json", "experiment.yaml"} <= files
        assert [path.name for path in (tmp_path / "runs" / "m").iterdir()] == ["run.json"]


@pytest.mark.slow
@pytest.mark.reliability("D53")
def test_a_server_that_comes_back_while_a_run_trains_gets_all_of_it(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("topwork.lab.tracking.open_run.AwayStore.is_due", lambda self: True)

    class Returning(Ending):
        def epoch(self, epoch: Epoch) -> None:
            super().epoch(epoch)
            if epoch.number == 3:
                self.server.start()

    with running(tmp_path) as server, caplog.at_level(logging.WARNING):
        result = train(experiment_at(server), output=tmp_path / "m", observer=Returning(server, signal.SIGKILL))
        assert f"the MLflow store {server.uri} answers again" in caplog.text
        run, client = only_run(server.uri), MlflowClient(tracking_uri=server.uri)
        assert run.info.status == "FINISHED"
        assert run.info.run_id == result.run_id
        history = client.get_metric_history(run.info.run_id, "training/loss")
        assert [(one.step, one.value) for one in history] == [
            (one.number, one.metrics["training/loss"]) for one in result.epochs
        ]
        assert sync(tmp_path / "runs" / "m") == 0


@pytest.mark.slow
def test_runs_of_later_seeds_are_created_when_the_server_is_back(store_uri: str, tmp_path: Path) -> None:
    with running(tmp_path) as server:
        experiment = experiment_at(server, "training.seeds=[0, 1]", "training.epochs=2")
        result = train_seeds(experiment, output=tmp_path / "m", observer=Ending(server, signal.SIGKILL, "seed 0"))
        assert result.by_seed[1].run_id is None
        server.start()
        assert sync(tmp_path / "runs" / "m") > 5
        client = MlflowClient(tracking_uri=server.uri)
        runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
        assert {str(run.info.run_name).removeprefix(result.name) for run in runs} == {"", "-seed-0", "-seed-1"}
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert all(run.data.tags.get("mlflow.parentRunId", result.run_id) == result.run_id for run in runs)


@pytest.mark.slow
@pytest.mark.reliability("D53")
def test_a_run_goes_on_while_its_server_is_away(store_uri: str, tmp_path: Path, heard: None) -> None:
    class Both(Ending):
        def epoch(self, epoch: Epoch) -> None:
            super().epoch(epoch)
            if epoch.number == 1:
                signal.raise_signal(signal.SIGINT)

    with running(tmp_path) as server:
        experiment = experiment_at(server)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, output=tmp_path / "m", observer=Both(server, signal.SIGKILL))
        result = train(experiment, output=tmp_path / "m")
        assert len(result.epochs) == 3
        server.start()
        sync(tmp_path / "runs" / "m")
        run, client = only_run(server.uri), MlflowClient(tracking_uri=server.uri)
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "training/loss")
        assert [one.step for one in history] == [1, 2, 3]


def test_the_place_of_a_store_is_noted_without_absolute_paths_and_passwords(tmp_path: Path) -> None:
    run = tmp_path / "models" / "runs" / "m"
    noted = relative_uri(f"sqlite:///{tmp_path / 'mlflow.db'}", run)
    assert noted == "sqlite:///../../../mlflow.db"
    assert absolute_uri(noted, run) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert relative_uri("https://me:secret@example.org", run) == "https://***@example.org"
    assert absolute_uri("https://***@example.org", run) == "https://***@example.org"


def test_a_store_whose_password_is_not_known_is_asked_for(tmp_path: Path) -> None:
    record = RunRecord(name="x", model="m", experiment={}, tracking_uri="https://***@example.org")
    with pytest.raises(
        ConfigurationError, match=r"the password of https://\*\*\*@example\.org is not kept; give the whole"
    ):
        store_of_run(RunFolder(tmp_path, record), None)


def test_a_store_that_was_moved_with_the_run_is_found(store_uri: str, tmp_path: Path) -> None:
    record = RunRecord(name="x", model="m", experiment={}, tracking_uri="sqlite:///../mlflow.db", experiment_id="7")
    store = store_of_run(RunFolder(tmp_path / "runs", record), None)
    assert (store.uri, store.experiment_id) == (store_uri, "7")


def test_writes_of_which_nothing_says_what_run_they_are_of_stay(store_uri: str, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "m"
    run = RunFolder(
        path, RunRecord(name="x", model="../../m", experiment={}, tracking_uri=relative_uri(store_uri, path))
    )
    run.update()
    run.training().unsent.add(Write(what="metrics", metrics=[("a", 1.0, 1, 1)]))
    with pytest.raises(StorageError, match=r"nothing says of which MLflow run the writes in .*unsent are"):
        sync(path)
    assert len(run.training().unsent.paths()) == 1


@pytest.mark.slow
def test_what_waits_of_a_run_that_is_begun_anew_is_dropped_and_that_is_said(
    store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Early(Observer):
        def begin(self, phase: str, total: int) -> None:
            raise KeyboardInterrupt

    experiment = small(f"tracking.uri={store_uri}", "training.epochs=2")
    with pytest.raises(KeyboardInterrupt):
        train(experiment, output=tmp_path / "m", observer=Early())
    path = tmp_path / "runs" / "m"
    RunFolder(path, read_record(path)).training().unsent.add(Write(what="metrics", metrics=[("a", 1.0, 1, 1)]))
    with caplog.at_level(logging.WARNING):
        result = train(small(f"tracking.uri={store_uri}", "training.epochs=1"), output=tmp_path / "m")
    assert "1 writes to the MLflow run of what was begun before are dropped" in caplog.text
    run = MlflowClient(tracking_uri=store_uri).get_run(str(result.run_id))
    assert (run.info.status, "a" in run.data.metrics) == ("FINISHED", False)
