"""Finished runs are found by name or id and read back, or refused with the reason."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from run_helpers import open_small_store, small
from topwork.errors import ConfigurationError, StorageError
from topwork.lab.result import Result
from topwork.lab.runs import train
from topwork.lab.tracking.finished_run import OUTPUTS_FILE, find_outputs, find_runs
from topwork.lab.tracking.study_log import open_study_log, open_trial_log


@dataclass(frozen=True)
class Tracked:
    """A store, and a finished run in it."""

    uri: str
    result: Result

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def begin(self, name: str) -> str:
        """Begin a run beside the finished one, and return its id."""
        experiment = self.client.get_run(str(self.result.run_id)).info.experiment_id
        return str(self.client.create_run(experiment, run_name=name).info.run_id)


@pytest.fixture(scope="module")
def tracked(_migrated_store: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Tracked(uri, train(small(f"tracking.uri={uri}"), output=folder / "model"))


def test_a_run_is_read_as_it_was_written(tracked: Tracked) -> None:
    by_name, by_id = (find_runs([which], tracked.uri)[0] for which in (tracked.result.name, tracked.result.run_id))
    for found in (by_name, by_id):
        assert found.name == tracked.result.name
        assert (found.settings["optimizer.heads_lr"], found.settings["backbone.kind"]) == ("0.001", "tiny")
        assert "name" not in found.settings
        assert {task: head["kind"] for task, head in found.heads.items()} == {
            "sentiment": "binary",
            "category": "classification",
        }
        assert found.outputs.split == "test"
    right = by_id.outputs.outputs["category"].argmax(dim=1) == by_id.outputs.targets["category"]
    assert float(right.float().mean()) == pytest.approx(tracked.result.estimates["category/accuracy"].value)


def test_runs_come_in_the_order_in_which_they_are_named(tracked: Tracked) -> None:
    other = tracked.begin("other")
    for name in (OUTPUTS_FILE, "experiment.resolved.yaml"):
        file = tracked.client.download_artifacts(str(tracked.result.run_id), name)
        tracked.client.log_artifact(other, file)
    for order in ([other, tracked.result.name], [tracked.result.name, other]):
        found = [run.name for run in find_runs(order, tracked.uri)]
        assert found == ["other" if name == other else name for name in order]


def test_outputs_are_found_by_what_they_are_and_not_by_their_name(tracked: Tracked, tmp_path: Path) -> None:
    run_id = tracked.begin("older")
    assert find_outputs(tracked.client, run_id) is None
    for name in ("of_an_older_version.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
        tracked.client.log_artifact(run_id, str(tmp_path / name))
    assert find_outputs(tracked.client, run_id) == "of_an_older_version.safetensors"


def test_all_runs_that_are_not_there_are_named(tracked: Tracked) -> None:
    name = tracked.result.name
    with pytest.raises(ConfigurationError) as caught:
        find_runs([f"{name}x", "0123456789"], tracked.uri)
    near, far = str(caught.value).splitlines()
    assert near == f"there is no run '{name}x' in {tracked.uri}, by name or id; did you mean {name}?"
    assert far == f"there is no run '0123456789' in {tracked.uri}, by name or id"


def test_a_name_that_several_runs_have_is_refused_with_their_ids(tracked: Tracked) -> None:
    ids = {tracked.begin("twin") for _ in range(2)}
    with pytest.raises(ConfigurationError, match="2 runs are named 'twin'; give an id: ") as caught:
        find_runs(["twin", tracked.result.name], tracked.uri)
    assert set(str(caught.value).rpartition(": ")[2].split(", ")) == ids


def test_a_run_that_kept_no_outputs_is_refused(tracked: Tracked) -> None:
    tracked.begin("unfinished")
    with pytest.raises(ConfigurationError) as caught:
        find_runs(["unfinished", tracked.result.name], tracked.uri)
    assert str(caught.value) == (
        "run unfinished (RUNNING) did not keep its model's outputs for each row, so it cannot be compared; "
        "compare finished runs that topwork has logged"
    )


def test_one_run_by_name_and_by_id_is_one_run(tracked: Tracked) -> None:
    with pytest.raises(ConfigurationError, match=r"name different runs to compare: some of .* are the same run"):
        find_runs([tracked.result.name, str(tracked.result.run_id)], tracked.uri)


def test_a_study_is_no_run_to_compare_but_its_trials_are(store_uri: str) -> None:
    store = open_small_store(store_uri)
    study = open_study_log(store, None, "pair", "0" * 64)
    trial = open_trial_log(store, study.run_id, "pair", 0, {}, "0" * 64)
    assert trial is not None
    with pytest.raises(ConfigurationError, match="run pair is a study; compare its trials, pair-0 and so on"):
        find_runs(["pair"], store_uri)
    with pytest.raises(ConfigurationError, match=r"run pair-0 \(RUNNING\) did not keep its model's outputs"):
        find_runs(["pair-0"], store_uri)


def test_damaged_outputs_are_told_with_their_run(tracked: Tracked, tmp_path: Path) -> None:
    run_id = tracked.begin("damaged")
    (tmp_path / OUTPUTS_FILE).write_bytes(torch.zeros(3).numpy().tobytes())
    tracked.client.log_artifact(run_id, str(tmp_path / OUTPUTS_FILE))
    settings = tracked.client.download_artifacts(str(tracked.result.run_id), "experiment.resolved.yaml")
    tracked.client.log_artifact(run_id, settings)
    with pytest.raises(StorageError, match=rf"{OUTPUTS_FILE} of run damaged is damaged: .*; compare other runs"):
        find_runs(["damaged"], tracked.uri)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_text("junk")
    with pytest.raises(StorageError) as caught:
        find_runs(["a"], f"sqlite:///{tmp_path}/junk.db")
    assert str(caught.value) == f"the MLflow store sqlite:///{tmp_path}/junk.db cannot be read: file is not a database"


def test_a_database_that_does_not_answer_is_told_at_once() -> None:
    pytest.importorskip("psycopg", reason="the extra topwork[postgresql] is not installed")
    with pytest.raises(StorageError, match=r"postgresql://\*\*\*@127.0.0.1:9/db cannot be read: connection failed"):
        find_runs(["a"], "postgresql://me:hush@127.0.0.1:9/db")


@pytest.mark.slow
def test_artifacts_that_are_gone_are_told(tracked: Tracked, store_uri: str, tmp_path: Path) -> None:
    result = train(small(f"tracking.uri={store_uri}", "training.epochs=1"), output=tmp_path / "model")
    artifacts = tmp_path / "mlruns" / "quickstart" / str(result.run_id) / "artifacts"
    (artifacts / "experiment.resolved.yaml").unlink()
    with pytest.raises(StorageError, match=f"^the MLflow store {store_uri} cannot be read: "):
        find_runs([result.name], store_uri)
