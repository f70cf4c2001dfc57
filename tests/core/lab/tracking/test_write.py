"""Writes come to MLflow once, whoever sends them."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from run_helpers import open_small_store
from topwork.lab.tracking.store import TrackingStore
from topwork.lab.tracking.write import RunEditor, ServedModel, Source, Write, log_file


@pytest.fixture
def store(store_uri: str) -> TrackingStore:
    return open_small_store(store_uri)


def new_run(store: TrackingStore) -> str:
    return str(store.client.create_run(store.experiment_id, run_name="a-run").info.run_id)


def metrics(*steps: int) -> Write:
    return Write(what="metrics", metrics=[(name, 0.5, 1000 + step, step) for step in steps for name in ("a", "b")])


def steps_of(store: TrackingStore, run_id: str, name: str) -> list[int]:
    return [one.step for one in store.client.get_metric_history(run_id, name)]


def test_a_step_that_another_process_wrote_is_not_written_again(store: TrackingStore) -> None:
    run_id = new_run(store)
    RunEditor(store, run_id, reopened=False).apply(metrics(1, 2))
    editor = RunEditor(store, run_id, reopened=True)
    for _ in range(2):
        editor.apply(metrics(1, 2, 3))
    assert steps_of(store, run_id, "a") == steps_of(store, run_id, "b") == [1, 2, 3]


def test_more_metrics_than_mlflow_takes_at_once_are_written(store: TrackingStore) -> None:
    run_id = new_run(store)
    RunEditor(store, run_id, reopened=False).apply(metrics(*range(1100)))
    assert steps_of(store, run_id, "b") == list(range(1100))


def test_a_parameter_that_has_changed_becomes_a_tag(store: TrackingStore) -> None:
    run_id = new_run(store)
    RunEditor(store, run_id, reopened=False).apply(Write(what="", parameters={"x": "1", "same": "2"}))
    RunEditor(store, run_id, reopened=True).apply(Write(what="", parameters={"x": "3", "same": "2", "new": "4"}))
    data = store.client.get_run(run_id).data
    assert data.params == {"x": "1", "same": "2", "new": "4"}
    assert data.tags["changed.x"] == "1 then, 3 now"


def test_a_run_is_created_where_it_was_to_be(store: TrackingStore) -> None:
    created: list[str] = []
    editor = RunEditor(store, "", reopened=True, created=created.append)
    editor.apply(Write(what="late", create={"topwork.x": "y"}))
    editor.apply(metrics(1))
    editor.apply(Write(what="the end", status="FINISHED"))
    run = store.client.get_run(editor.run_id)
    assert created == [editor.run_id]
    assert (run.info.run_name, run.info.status, run.data.tags["topwork.x"]) == ("late", "FINISHED", "y")
    editor.apply(Write(what="that it goes on", status="RUNNING"))
    assert store.client.get_run(editor.run_id).info.status == "RUNNING"


def test_files_and_sources_are_stored(store: TrackingStore) -> None:
    run_id = new_run(store)
    log_file(store.client, run_id, "figures/x.csv", b"a,b\n")
    log_file(store.client, run_id, "top.txt", b"text")
    source = Source(name="reviews", digest="abc", kind="local", uri="{}", context="train")
    for _ in range(2):
        RunEditor(store, run_id, reopened=True).apply(Write(what="", sources=[source]))
    assert [one.path for one in store.client.list_artifacts(run_id)] == ["figures", "top.txt"]
    run = MlflowClient(tracking_uri=store.uri).get_run(run_id)
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["reviews"]


def test_a_model_that_is_gone_is_not_stored(store: TrackingStore, tmp_path: Path) -> None:
    served = ServedModel(folder=tmp_path / "gone", example=[], requirements=[])
    with pytest.raises(ValueError, match="gone is gone"):
        RunEditor(store, new_run(store), reopened=False).apply(Write(what="the model", model=served))
