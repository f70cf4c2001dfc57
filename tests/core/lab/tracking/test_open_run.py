"""What is written to MLflow waits where MLflow cannot take it, and never stops what it is written of."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from run_helpers import epoch, run_of, small, sql
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Epoch, Observer
from topwork.engine.preparation import prepare
from topwork.interfaces.labels import Classes
from topwork.lab.run_record import unsent_in
from topwork.lab.runs import train
from topwork.lab.tracking.finished_run import OUTPUTS_FILE
from topwork.lab.tracking.open_run import MAX_PARAMETER_LENGTH, as_yaml, short
from topwork.lab.tracking.run_log import RunLog
from topwork.registry import discover


@pytest.mark.slow
@pytest.mark.reliability("D57")
def test_a_long_parameter_is_shortened_with_a_note(log: RunLog) -> None:
    patterns = ["layer.1.ffn"] * 1000
    log.log_start(prepare(small(f"tracking.uri={log.store.uri}", f"freeze.patterns={patterns}")), discover())
    value = run_of(log).data.params["freeze.patterns"]
    assert len(value) <= MAX_PARAMETER_LENGTH < len(str(patterns))
    assert value.startswith("['layer.1.ffn', ")
    assert value.endswith("... (whole in experiment.resolved.yaml)")


def test_metrics_that_could_not_be_written_are_sent_with_the_next(
    log: RunLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.epoch(epoch(1))
    sql(log.store.uri, "ALTER TABLE metrics RENAME TO gone")
    log.epoch(epoch(2))
    sql(log.store.uri, "ALTER TABLE gone RENAME TO metrics")
    log.epoch(epoch(3))
    assert "metrics could not be logged to MLflow" in caplog.text
    history = log.store.client.get_metric_history(log.run_id, "training/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_any_number_of_metrics_that_waited_is_written(log: RunLog) -> None:
    many = {f"training/task{number}/loss": 0.5 for number in range(600)}  # MLflow takes 1000 at a time
    sql(log.store.uri, "ALTER TABLE metrics RENAME TO gone")
    log.epoch(Epoch(1, many, {"heads": 1e-3}, 100.0))
    sql(log.store.uri, "ALTER TABLE gone RENAME TO metrics")
    log.epoch(Epoch(2, many, {"heads": 1e-3}, 100.0))
    assert len(log.store.client.get_metric_history(log.run_id, "training/task599/loss")) == 2
    assert log.pending == []


@pytest.mark.slow
def test_a_tracker_that_fails_does_not_stop_training(
    store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Saboteur(Observer):
        def begin(self, phase: str, total: int) -> None:
            if phase == "epoch 2":
                sql(store_uri, "DROP TABLE metrics")

    with caplog.at_level(logging.WARNING):
        result = train(
            small(f"tracking.uri={store_uri}", "training.epochs=3"), output=tmp_path / "model", observer=Saboteur()
        )
    assert len(result.epochs) == 3
    assert load_model(tmp_path / "model").predict(["a text"])
    assert f"the MLflow store {store_uri} does not answer: " in caplog.text
    waiting = tmp_path / "runs" / "model" / "unsent"
    assert f"writes wait in {waiting}; send them with: topwork sync {tmp_path / 'runs' / 'model'}" in caplog.text
    assert unsent_in(waiting.parent)


OUTPUTS = SplitOutputs(
    split="test",
    texts_sha256={"mood": "0" * 64},
    width=8,
    labels={"mood": Classes(("bad", "good"))},
    outputs={"mood": torch.tensor([[0.5], [-2.0]])},
    targets={"mood": torch.tensor([1, 0])},
)


def test_outputs_are_kept_as_they_are(log: RunLog) -> None:
    log.log_outputs(OUTPUTS)
    (artifact,) = log.store.client.list_artifacts(log.run_id)
    assert artifact.path == OUTPUTS_FILE
    content = Path(log.store.client.download_artifacts(log.run_id, OUTPUTS_FILE)).read_bytes()
    kept = SplitOutputs.from_bytes(content, name=OUTPUTS_FILE)
    assert replace(kept, outputs={}, targets={}) == replace(OUTPUTS, outputs={}, targets={})
    assert torch.equal(kept.outputs["mood"], OUTPUTS.outputs["mood"])
    assert torch.equal(kept.targets["mood"], OUTPUTS.targets["mood"])


def test_whatever_mlflow_raises_is_a_warning_with_its_type(log: RunLog, caplog: pytest.LogCaptureFixture) -> None:
    place = Path(str(run_of(log).info.artifact_uri).removeprefix("file://"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file where a folder should be")
    log.log_outputs(OUTPUTS)
    assert f"{OUTPUTS_FILE} could not be logged to MLflow: NotADirectoryError: " in caplog.text


def test_metrics_that_were_never_written_are_counted_at_the_end(log: RunLog, caplog: pytest.LogCaptureFixture) -> None:
    sql(log.store.uri, "ALTER TABLE metrics RENAME TO gone")
    log.epoch(epoch(1))
    log.close("FINISHED")
    assert f"3 metric values could not be written to {log.store.uri}" in caplog.text
    assert run_of(log).info.status == "FINISHED"


def test_a_run_ends_with_its_reason_cut_to_what_mlflow_takes(log: RunLog) -> None:
    log.close("FAILED", "x" * 10000)
    run = run_of(log)
    assert run.info.status == "FAILED"
    assert run.data.tags["topwork.reason"] == "x" * 4000


@pytest.mark.parametrize("length", [MAX_PARAMETER_LENGTH - 1, MAX_PARAMETER_LENGTH])
def test_a_parameter_that_fits_is_written_whole(length: int) -> None:
    assert short("x" * length) == "x" * length


def test_an_experiment_is_written_with_every_default() -> None:
    experiment = small()
    assert YAML(typ="safe").load(as_yaml(experiment)) == experiment.dump()
