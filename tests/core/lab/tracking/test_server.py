"""The newest study or run of a store is found, and a server that does not start says why."""

import json
import socket
from urllib.parse import unquote

import pytest

from run_helpers import open_small_store, sql
from topwork.errors import ConfigurationError, StorageError
from topwork.lab.tracking import server as server_module
from topwork.lab.tracking.server import find_newest, serving
from topwork.lab.tracking.study_log import open_study_log, open_trial_log

DIGEST = "ab" * 32


def test_of_an_empty_store_the_experiments_are_shown(store_uri: str) -> None:
    assert find_newest(store_uri) == ("no runs yet", "#/experiments")


def test_of_a_run_the_list_that_it_stands_in_is_shown(store_uri: str) -> None:
    store = open_small_store(store_uri)
    store.client.create_run(store.experiment_id, run_name="plain")
    assert find_newest(store_uri) == ("run plain", f"#/experiments/{store.experiment_id}/runs")


def test_of_a_study_without_trials_the_list_is_shown(store_uri: str) -> None:
    store = open_small_store(store_uri)
    open_study_log(store, None, "fresh", DIGEST)
    what, link = find_newest(store_uri)
    assert what == "study fresh, which has no trials yet"
    assert link == f"#/experiments/{store.experiment_id}/runs"


@pytest.mark.slow
@pytest.mark.parametrize("newest", ["the study", "a trial"])
def test_of_a_study_the_comparison_of_its_trials_is_shown(
    store_uri: str, newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_COMPARED_RUNS", 2)
    store = open_small_store(store_uri)
    other = open_study_log(store, None, "other", DIGEST)
    open_trial_log(store, other.run_id, "other", 0, {}, DIGEST)
    study = open_study_log(store, None, "pair", DIGEST)
    trials = [open_trial_log(store, study.run_id, "pair", number, {}, DIGEST) for number in range(3)]
    if newest == "the study":
        sql(store_uri, f"UPDATE runs SET start_time = start_time + 60000 WHERE run_uuid = '{study.run_id}'")
    for number, trial in enumerate(trials):
        assert trial is not None
        sql(store_uri, f"UPDATE runs SET start_time = start_time + {number} WHERE run_uuid = '{trial.run_id}'")
    what, link = find_newest(store_uri)
    assert what == "the trials of study pair"
    assert link.startswith("#/compare-runs?runs=")
    runs, _, experiments = unquote(link.removeprefix("#/compare-runs?runs=")).partition("&experiments=")
    assert json.loads(runs) == [trial.run_id for trial in trials[:2] if trial]
    assert json.loads(experiments) == [store.experiment_id]


def test_a_store_that_cannot_be_read_is_told(store_uri: str) -> None:
    sql(store_uri, "DROP TABLE runs")
    with pytest.raises(StorageError, match=rf"^the MLflow store {store_uri} cannot be read: "):
        find_newest(store_uri)


def test_a_port_that_is_taken_is_told(store_uri: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught, serving(store_uri, port):
            pytest.fail("it cannot be served there")
    assert str(caught.value) == f"port {port} cannot be used: Address already in use; choose another with --port"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_server_that_ends_at_once_is_told() -> None:
    with (
        pytest.raises(StorageError, match=r"^mlflow server ended with exit code \d+; its output is above"),
        serving("nonsense://somewhere", free_port()),
    ):
        pytest.fail("there is nothing to serve")


@pytest.mark.slow
def test_a_server_that_does_not_answer_in_time_is_told(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "START_TIMEOUT", 0)
    with (
        pytest.raises(StorageError, match="mlflow server did not answer within 0 seconds"),
        serving(store_uri, free_port()),
    ):
        pytest.fail("it cannot have started so soon")
