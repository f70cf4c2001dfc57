"""A study is one MLflow run, and each trial another below it; both end as the study says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from run_helpers import open_small_store, run_of, small, sql
from small_experiment import QUICKSTART, SMALL
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.evaluation.estimates import Estimate
from topwork.errors import ConfigurationError, StorageError
from topwork.experiment.loading import load_experiment
from topwork.interfaces.labels import Classes
from topwork.lab.tracking import study_log as study_log_module
from topwork.lab.tracking.store import PARENT_TAG, PROCESS_TAG, STUDY_TAG, TrackingStore
from topwork.lab.tracking.study_log import (
    STATE_TAG,
    TRIAL_TAG,
    StudyLog,
    TrialLog,
    fetch_outputs,
    objective_names,
    open_study_log,
    open_trial_log,
)
from topwork.process_name import this_process

DIGEST = "ab" * 32

OUTPUTS = SplitOutputs(
    split="test",
    texts_sha256={"mood": "0" * 64},
    width=8,
    labels={"mood": Classes(("bad", "good"))},
    outputs={"mood": torch.tensor([[0.5], [-2.0]])},
    targets={"mood": torch.tensor([1, 0])},
)


@pytest.fixture
def store(store_uri: str) -> TrackingStore:
    return open_small_store(store_uri)


@pytest.fixture
def study(store: TrackingStore) -> Iterator[StudyLog]:
    """The log of a study that has begun."""
    yield open_study_log(store, None, "pair", DIGEST)


def begin_trial(study: StudyLog, number: int = 0, **values: object) -> TrialLog:
    log = open_trial_log(study.store, study.run_id, "pair", number, values, DIGEST)
    assert log is not None
    return log


def steps_of(log: TrialLog, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in log.store.client.get_metric_history(log.run_id, name)]


def artifacts_of(log: StudyLog | TrialLog, folder: str | None = None) -> list[str]:
    return [artifact.path for artifact in log.store.client.list_artifacts(log.run_id, folder)]


def text_of(log: StudyLog | TrialLog, name: str) -> str:
    return Path(log.store.client.download_artifacts(log.run_id, name)).read_text(encoding="utf-8")


def test_a_study_begins_as_a_run_of_its_name(study: StudyLog) -> None:
    run = run_of(study)
    assert (run.info.run_name, run.info.status) == ("pair", "RUNNING")
    assert (run.data.tags[STUDY_TAG], run.data.tags["data.digest"]) == ("pair", DIGEST)
    assert run.data.tags[PROCESS_TAG] == this_process()


def test_a_study_goes_on_with_its_run(study: StudyLog) -> None:
    study.store.client.set_tag(study.run_id, PROCESS_TAG, "another process")
    study.close("KILLED")
    again = open_study_log(study.store, study.run_id, "pair", DIGEST)
    assert again.run_id == study.run_id
    assert run_of(again).info.status == "RUNNING"
    assert run_of(again).data.tags[PROCESS_TAG] == this_process()


@pytest.mark.parametrize("run", ["deleted", "of another store"])
def test_a_study_whose_run_is_gone_begins_another(study: StudyLog, run: str) -> None:
    if run == "deleted":
        study.store.client.delete_run(study.run_id)
    run_id = study.run_id if run == "deleted" else "0" * 32
    assert open_study_log(study.store, run_id, "pair", DIGEST).run_id not in (study.run_id, run_id)


def test_a_study_does_not_go_on_in_another_mlflow_experiment(study: StudyLog) -> None:
    other = open_small_store(study.store.uri, "tracking.experiment=other")
    with pytest.raises(ConfigurationError) as caught:
        open_study_log(other, study.run_id, "pair", DIGEST)
    assert str(caught.value) == (
        "study 'pair' was begun in the MLflow experiment 'quickstart', and tracking.experiment is now 'other'; "
        "change it back to resume, or set another study.name to start anew"
    )


def test_a_store_that_does_not_take_a_study_is_told(store: TrackingStore) -> None:
    sql(store.uri, "DROP TABLE runs")
    with pytest.raises(StorageError, match=rf"^the MLflow store {store.uri} does not take the study: .*; fix that, or"):
        open_study_log(store, None, "pair", DIGEST)


def test_a_store_that_does_not_take_a_trial_costs_its_log_alone(
    study: StudyLog, caplog: pytest.LogCaptureFixture
) -> None:
    sql(study.store.uri, "DROP TABLE runs")
    assert open_trial_log(study.store, study.run_id, "pair", 7, {"heads_lr": 0.1}, DIGEST) is None
    assert "trial 7 could not be logged to MLflow: MlflowException: " in caplog.text


def test_a_trial_begins_as_a_run_below_its_studys_with_its_values(study: StudyLog) -> None:
    run = run_of(begin_trial(study, 3, heads_lr=0.1, patterns="x" * 9000))
    assert run.info.run_name == "pair-3"
    assert (
        run.data.tags.items()
        >= {
            PARENT_TAG: study.run_id,
            STUDY_TAG: "pair",
            TRIAL_TAG: "3",
            STATE_TAG: "running",
            "data.digest": DIGEST,
            PROCESS_TAG: this_process(),
        }.items()
    )
    assert run.data.params["heads_lr"] == "0.1"
    assert run.data.params["patterns"].endswith("x... (whole in experiment.resolved.yaml)")


def test_metrics_of_a_trial_are_written_now_and_then(study: StudyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = begin_trial(study)
    log.epoch(1, {"loss": 0.5}, [0.25])
    assert run_of(log).data.metrics == {}
    monkeypatch.setattr(study_log_module, "WRITE_INTERVAL", 0.0)
    log.epoch(2, {"loss": 0.4}, [0.35])
    assert steps_of(log, "loss") == [(1, 0.5), (2, 0.4)]
    assert steps_of(log, "epoch/objective") == [(1, 0.25), (2, 0.35)]
    assert steps_of(log, "objective") == [(2, 0.35)]


def test_the_objective_comes_first_of_all_metrics(study: StudyLog) -> None:
    log = begin_trial(study)
    log.epoch(1, {"a/loss": 0.5}, [0.25, 3.0])
    log.store.client.log_batch = lambda run_id, metrics=(), **rest: written.extend(metrics)  # type: ignore[method-assign]
    written: list[object] = []
    log.finish([0.2, 3.0], None, small())
    assert [getattr(metric, "key", None) for metric in written][:2] == ["objective_1", "objective_2"]


def test_a_complete_trial_keeps_what_it_takes_to_compare_it(study: StudyLog) -> None:
    log = begin_trial(study)
    log.finish([0.75], OUTPUTS, small())
    run = run_of(log)
    assert (run.info.status, run.data.tags[STATE_TAG]) == ("FINISHED", "complete")
    assert run.data.metrics == {"objective": 0.75}
    assert artifacts_of(log) == ["experiment.resolved.yaml", "outputs.safetensors"]
    content = fetch_outputs(log.store, log.run_id)
    assert content is not None
    kept = SplitOutputs.from_bytes(content, name="kept")
    assert torch.equal(kept.outputs["mood"], OUTPUTS.outputs["mood"])


def test_a_trial_without_test_rows_keeps_none(study: StudyLog) -> None:
    log = begin_trial(study)
    log.finish([0.75], None, small())
    assert artifacts_of(log) == []
    assert fetch_outputs(log.store, log.run_id) is None


def test_outputs_of_a_run_that_is_gone_are_a_warning(study: StudyLog, caplog: pytest.LogCaptureFixture) -> None:
    assert fetch_outputs(study.store, "0" * 32) is None
    assert f"MLflow has no outputs of run {'0' * 32}: " in caplog.text


@pytest.mark.parametrize(
    ("state", "status"), [("complete", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED"), ("lost", "KILLED")]
)
def test_a_trial_ends_with_its_state_and_its_reason(study: StudyLog, state: str, status: str) -> None:
    log = begin_trial(study)
    log.end(state, "the reason")
    run = run_of(log)
    assert (run.info.status, run.data.tags[STATE_TAG]) == (status, state)
    assert run.data.tags["topwork.reason"] == "the reason"


def test_the_runs_of_trials_get_the_states_of_their_trials(study: StudyLog) -> None:
    states = {0: "complete", 1: "lost", 2: "running", 3: "pruned"}
    logs = [begin_trial(study, number) for number in range(5)]
    logs[3].end("pruned")
    ended = run_of(logs[3]).info.end_time
    study.sync_states(states)
    assert [(run_of(log).info.status, run_of(log).data.tags[STATE_TAG]) for log in logs] == [
        ("FINISHED", "complete"),
        ("KILLED", "lost"),
        ("RUNNING", "running"),
        ("FINISHED", "pruned"),
        ("KILLED", "lost"),  # its process died before the trial was there
    ]
    assert run_of(logs[3]).info.end_time == ended


def test_runs_of_other_studies_are_left_alone(study: StudyLog) -> None:
    other = open_study_log(study.store, None, "other", DIGEST)
    log = begin_trial(other)
    study.sync_states({})
    assert run_of(log).data.tags[STATE_TAG] == "running"


def test_a_study_has_its_settings_and_its_file_without_passwords(study: StudyLog, tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("data/", f"{QUICKSTART.parent}/data/")
    file.write_text(text + "# mlflow is at https://me:hush@example.org\n", encoding="utf-8")
    study.start(load_experiment(file, SMALL), {"search.optimizer.heads_lr": "0.0001 to 0.1", "study.seeds": "None"})
    assert run_of(study).data.params == {"search.optimizer.heads_lr": "0.0001 to 0.1", "study.seeds": "None"}
    assert text_of(study, "experiment.yaml").endswith("# mlflow is at https://me:***@example.org\n")
    assert "kind: tiny" in text_of(study, "experiment.resolved.yaml")


def test_a_study_has_its_outcome(study: StudyLog) -> None:
    estimate = Estimate(0.5, 0.25, float("nan"), 20)
    study.log_result({"first": [0.5], "best": [0.75]}, {"best": {"mood/accuracy": estimate}}, 7)
    assert run_of(study).data.metrics == {
        "trials": 7,
        "first/objective": 0.5,
        "best/objective": 0.75,
        "best/test/mood/accuracy": 0.5,
        "best/test/mood/accuracy/low": 0.25,
    }


def test_a_study_has_its_pictures_and_files(study: StudyLog) -> None:
    study.log_files({"contour": Figure(), "history": Figure()}, {"figures/study.html": "<p>", "best.yaml": "a: 1\n"})
    assert artifacts_of(study, "figures") == [
        "figures/contour.png",
        "figures/history.png",
        "figures/study.html",
    ]
    assert text_of(study, "best.yaml") == "a: 1\n"


@pytest.mark.parametrize(("values", "names"), [([1.0], ["objective"]), ([1.0, 2.0], ["objective_1", "objective_2"])])
def test_objectives_have_names_that_mlflow_takes(values: list[float], names: list[str]) -> None:
    assert objective_names(values) == names
