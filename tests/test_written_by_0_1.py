"""What version 0.1 wrote is still read: a trained model, the activation store, a study, and a run in MLflow."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import topwork
from topwork.engine.encoding.store.key import Key, make_key
from topwork.engine.encoding.store.manifest import read_manifest
from topwork.engine.preparation import Preparation, prepare
from topwork.errors import StorageError
from topwork.experiment.loading import load_experiment
from topwork.lab.study.trial_states import INTERRUPTED, RETRY_OF
from topwork.lab.tracking.finished_run import find_runs

WRITTEN = Path(__file__).parent / "fixtures" / "written_by_0_1"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working folder, with the encoder, the rows and the experiment of that time."""
    shutil.copytree(WRITTEN / "encoder", tmp_path / "encoder")
    for name in ("rows.csv", "experiment.yaml"):
        shutil.copy(WRITTEN / name, tmp_path)
    return tmp_path


def key_of(prepared: Preparation) -> Key:
    return make_key(prepared.model.prefix, prepared.experiment.pooling, dtype=torch.float32, device=CPU)


def activations() -> Path:
    (entry,) = (WRITTEN / "activations").iterdir()
    return entry


def test_a_model_predicts_what_it_predicted_then() -> None:
    model = topwork.load_model(WRITTEN / "model")
    lines = (WRITTEN / "predictions.jsonl").read_text().splitlines()
    for expected in map(json.loads, lines):
        (prediction,) = model.predict([expected.pop("text")])
        assert prediction.keys() == expected.keys()
        for task, answer in expected.items():
            assert prediction[task].label == answer["label"]
            assert prediction[task].probabilities == pytest.approx(answer["probabilities"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("all_resamples")
def test_a_model_is_measured_on_a_file_as_it_was_then() -> None:
    figures, _ = topwork.load_model(WRITTEN / "model").evaluate(WRITTEN / "rows.csv")
    values = {name: round(figure.value, 3) for name, figure in figures.items()}
    assert {name: value for name, value in values.items() if "matthews" not in name} == {
        "sentiment/accuracy": 0.542,
        "sentiment/macro_f1": 0.484,
        "category/accuracy": 0.667,
        "category/macro_f1": 0.495,
    }
    assert (round(figures["category/macro_f1"].low, 3), round(figures["category/macro_f1"].high, 3)) == (0.368, 0.639)


def test_a_model_of_another_format_says_which_version_reads_it(tmp_path: Path) -> None:
    shutil.copytree(WRITTEN / "model", tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(StorageError, match=r"has format 0, .* use topwork 0\.1\.0, which wrote it$"):
        topwork.load_model(tmp_path / "model")


def test_the_same_activations_are_filed_under_the_same_key(folder: Path) -> None:
    """All but the versions and the processor, which are those of the machine that they were written on."""
    manifest = read_manifest(activations())
    assert manifest is not None
    then, now = manifest.key, key_of(prepare(load_experiment("experiment.yaml"))).description
    then_numerics, now_numerics = then.pop("numerics"), now.pop("numerics")
    assert isinstance(then_numerics, dict) and isinstance(now_numerics, dict)
    assert then_numerics["encoder"] == now_numerics["encoder"]
    then_architecture, now_architecture = then.pop("architecture"), now.pop("architecture")
    assert isinstance(then_architecture, dict) and isinstance(now_architecture, dict)
    assert then_architecture | {"transformers": ""} == now_architecture | {"transformers": ""}
    assert then == now


@pytest.mark.slow
def test_stored_activations_are_found_and_trained_on(folder: Path) -> None:
    prepared = prepare(load_experiment("experiment.yaml"))
    cache = folder / "cache" / "activations"
    manifest = read_manifest(activations())
    assert manifest is not None
    then, now = manifest.key["numerics"], key_of(prepared).description["numerics"]
    if then != now:
        pytest.skip(f"the activations were computed on {then}, where bits are others than on {now}")
    shutil.copytree(activations(), cache / key_of(prepared).digest)  # versions may give the key another name
    decision = prepared.decide_store(prepared.plan.phases[0], CPU)
    assert decision.stored is not None
    assert len(decision.stored.missing) == 0
    result = topwork.train(load_experiment("experiment.yaml", ["tracking.enabled=false", "training.epochs=1"]))
    assert len(result.epochs) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_interrupted(folder: Path) -> None:
    study = folder / "studies" / "written-before"
    study.mkdir(parents=True)
    shutil.copytree(WRITTEN / "trials", study / "trials")
    with sqlite3.connect(study / "study.db") as database:
        database.executescript((WRITTEN / "study.sql").read_text())
    database.close()
    overrides = ["tracking.enabled=false", "training.store=auto", "study.trials=5", "study.workers=1"]
    result = topwork.study(load_experiment("experiment.yaml", overrides))
    assert [trial.number for trial in result.trials] == [0, 1, 2, 4, 5]  # the interrupted one is number 3
    assert all(trial.state == "complete" for trial in result.trials)
    assert result.baseline == 0
    assert result.evaluations.keys() == {0, *result.best}  # with what the first trial kept then
    with sqlite3.connect(study / "study.db") as database:
        attributes = dict(database.execute("SELECT key, value_json FROM trial_user_attributes WHERE key != 'process'"))
    database.close()
    assert {INTERRUPTED, RETRY_OF} <= attributes.keys()


@pytest.mark.slow
def test_a_run_in_mlflow_is_compared(store_uri: str) -> None:
    client = MlflowClient(tracking_uri=store_uri)
    experiment = client.create_experiment("written-before")
    for name in ("one", "other"):
        run = client.create_run(experiment, run_name=name)
        client.log_artifacts(run.info.run_id, str(WRITTEN / "run"))
        client.set_terminated(run.info.run_id)
    first, second = find_runs(["one", "other"], store_uri)
    assert first.outputs.labels["category"].names == ("books", "music")
    compared = topwork.compare(["one", "other"], uri=store_uri)
    assert compared.settings == {}
    assert all(one.value == 0.0 for differences in compared.differences.values() for one in differences)
    assert second.settings["optimizer.heads_lr"] == "0.001"
