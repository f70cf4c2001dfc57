"""What a study logs while its tracking server is away waits in its folder, and is sent when the server is back."""

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from mlflow_server import running
from study_helpers import Command, assert_whole, runs_of, settings, trials_of
from topwork.lab.tracking.store import TrackingStore, store_of
from topwork.lab.tracking.study_log import STATE_TAG, TRIAL_TAG, StudyLog, open_study_log, open_trial_log
from topwork.lab.tracking.study_unsent import StudyUnsent, send_waiting
from waiting import wait_for

DIGEST = "0" * 64
EPOCHS, TRIALS = 60, 10

#: Where nothing answers.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def study(store_uri: str) -> StudyLog:
    """A study's run in a store that answers."""
    client = MlflowClient(tracking_uri=store_uri)
    store = TrackingStore(store_uri, client.create_experiment("quickstart"), client)
    return open_study_log(store, None, "pair", DIGEST)


def log_away(study: StudyLog, folder: Path, number: int) -> None:
    """Log a trial while the store is away."""
    store = store_of(NOWHERE, study.store.experiment_id)
    waiting = StudyUnsent(folder, "abc", str(number))
    log = open_trial_log(store, study.run_id, "pair", number, {"heads_lr": 0.1}, DIGEST, waiting=waiting)
    assert log is not None
    log.epoch(1, {"loss": 0.5}, [0.25])
    log.end("pruned")


def trial_runs(study: StudyLog) -> list[Run]:
    return runs_of(study.store.uri)[1]


def test_a_trial_that_could_not_be_logged_at_all_is_logged_when_the_store_is_back(
    study: StudyLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_away(study, tmp_path, 3)
    assert "they are sent when the study ends, or by the same command" in caplog.text
    send_waiting(study.store, tmp_path, "abc", ["3"])
    (run,) = trial_runs(study)
    assert (run.info.run_name, run.info.status) == ("pair-3", "FINISHED")
    assert (run.data.tags[TRIAL_TAG], run.data.tags[STATE_TAG]) == ("3", "pruned")
    assert run.data.params == {"heads_lr": "0.1"}
    assert run.data.metrics == {"epoch/objective": 0.25, "loss": 0.5}
    assert not list((tmp_path / "tracking" / "abc").iterdir())
    send_waiting(study.store, tmp_path, "abc", ["3"])
    assert len(trial_runs(study)) == 1


def test_what_trials_in_training_wrote_is_left_alone(study: StudyLog, tmp_path: Path) -> None:
    log_away(study, tmp_path, 3)
    send_waiting(study.store, tmp_path, "abc", ["2"])
    assert trial_runs(study) == []
    assert StudyUnsent(tmp_path, "abc", "3").paths()


def test_what_a_killed_sender_sent_is_not_sent_twice(study: StudyLog, tmp_path: Path) -> None:
    log_away(study, tmp_path, 3)
    unsent = StudyUnsent(tmp_path, "abc", "3")
    texts = {path: path.read_bytes() for path in unsent.paths()}
    send_waiting(study.store, tmp_path, "abc", ["3"])
    (run,) = trial_runs(study)
    unsent.note_run(run.info.run_id)
    for path in list(texts)[1:]:  # all but the creation, as if it had been killed before it removed them
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(texts[path])
    send_waiting(study.store, tmp_path, "abc", ["3"])
    (run,) = trial_runs(study)
    assert len(study.store.client.get_metric_history(run.info.run_id, "loss")) == 1


def test_a_store_that_is_still_away_is_told_and_what_waits_stays(
    study: StudyLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_away(study, tmp_path, 3)
    before = StudyUnsent(tmp_path, "abc", "3").paths()
    send_waiting(store_of(NOWHERE, study.store.experiment_id), tmp_path, "abc", ["3"])
    root = tmp_path / "tracking" / "abc"
    assert f"what was logged waits in {root}, and the same command sends it" in caplog.text
    assert StudyUnsent(tmp_path, "abc", "3").paths() == before


@pytest.mark.slow
@pytest.mark.reliability("D58")
def test_a_server_that_is_killed_in_the_middle_of_a_study_has_all_of_it_in_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (tmp_path / "server").mkdir()
    url = f"sqlite:///{folder / 'studies' / 'quickstart' / 'study.db'}"

    def complete() -> int:
        return sum(trial.state == TrialState.COMPLETE for trial in trials_of(url))

    with running(tmp_path / "server") as server:
        options = settings(f"tracking.uri={server.uri}", epochs=EPOCHS, trials=TRIALS)
        command = Command(folder, options)
        try:
            wait_for(lambda: complete() >= 1 or command.process.poll() is not None)
            server.send(signal.SIGKILL)
            away = complete()
            wait_for(lambda: complete() >= away + 2 or command.process.poll() is not None)
            assert command.process.poll() is None, command.out.read_text()
        finally:
            server.start()
        command.finish()
        Command(folder, options).finish()  # should it have been too late for what the study logs in the end
        trials = trials_of(url)
        assert_whole(trials, server.uri, TRIALS)
        client = MlflowClient(tracking_uri=server.uri)
        for run in runs_of(server.uri)[1]:
            for name in ("epoch/objective", "loss"):
                steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
                assert sorted(steps) == list(range(1, EPOCHS + 1)), (run.info.run_name, name)
            assert len(run.data.params) == 4  # both rates, and their logarithms
            assert {"experiment.resolved.yaml"} <= {one.path for one in client.list_artifacts(run.info.run_id)}
    assert not list(folder.rglob("unsent"))
