"""What heads find in each layer, measured as runs of their own would be."""

import csv
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

import topwork
from run_helpers import small
from study_helpers import trained_here
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.lab.runs import train_seeds
from topwork.lab.study.probe import probe, probes_of, settings_of, with_frozen_encoder
from topwork.lab.study.probe_result import Probe, ProbeResult
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.testing import tiny_model

pytestmark = pytest.mark.slow

TRAINING = "training={epochs: 2, batch_size: 16, device: cpu, patience: 2, monitor: validation/loss, seeds: [0, 1]}"


def probed(experiment: Experiment) -> ProbeResult:
    with trained_here():
        return probe(experiment)


def test_every_layer_is_read_by_its_first_token_and_by_its_mean() -> None:
    probes = probes_of(tiny_model().backbone)
    assert list(map(str, probes)) == [
        "cls of embeddings", "mean of embeddings", "cls of layer.0", "mean of layer.0", "cls of layer.1",
        "mean of layer.1",
    ]  # fmt: skip
    assert settings_of(probes) == [
        {"kind": "cls", "layer": "embeddings"},
        {"kind": "mean", "layer": "embeddings"},
        {"kind": "cls", "layer": 0},
        {"kind": "mean", "layer": 0},
        {"kind": "cls"},
        {"kind": "mean"},
    ]


def test_a_probe_is_a_run_with_that_pooling_on_the_frozen_encoder(tmp_path: Path) -> None:
    off = "tracking.enabled=false"
    result = probed(small(TRAINING, off, "freeze={kind: last_layers, count: 1}", "pooling={kind: max}"))
    assert len(result.values) == 2 * 3 * 2
    run = train_seeds(
        small(TRAINING, off, "freeze={kind: all}", "pooling={kind: mean, layer: 0}"), output=tmp_path / "run"
    )
    for task in ("sentiment", "category"):
        found, wanted = result.values[task, Probe("layer.0", "mean")], run.estimates[f"{task}/accuracy"]
        assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
        best = max(result.validation[task, one] for _, one in result.values)
        assert result.validation[task, result.chosen[task]] == best
        last = result.chosen[task].layer == "layer.1"
        assert (result.against_last[task] is None) == last
    with (result.folder / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.values)
    assert [row["chosen"] for row in rows].count("True") == 2


def test_one_pass_keeps_what_every_layer_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    one_seed = small(TRAINING, "training.seeds=[0]", "tracking.enabled=false")  # the tiny backbone is drawn from it
    result = probed(one_seed)
    entries = list_entries(cache_folder())
    assert len(entries) == 6
    assert result.encoding_seconds > 0
    assert probed(one_seed).encoding_seconds == 0


class Interrupting(StudyObserver):
    """Interrupts once a probe is trained."""

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        if finished:
            raise KeyboardInterrupt


def test_the_same_command_goes_on_where_it_was_interrupted() -> None:
    experiment = small(TRAINING, "tracking.enabled=false")
    with trained_here(), pytest.raises(KeyboardInterrupt):
        probe(experiment, observer=Interrupting())
    trained = sorted((Path("studies") / "quickstart-probe" / "trials").rglob("*.safetensors"))
    assert trained
    written = {path: path.stat().st_mtime_ns for path in trained}
    assert len(probed(experiment).values) == 12
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_mlflow_has_every_figure_the_table_and_the_picture(store_uri: str) -> None:
    result = probed(small(TRAINING, f"tracking.uri={store_uri}"))
    client = MlflowClient(tracking_uri=store_uri)
    run = client.get_run(result.run_id)
    found = result.values["sentiment", Probe("embeddings", "mean")]
    assert run.data.metrics["probe/sentiment/mean/embeddings"] == pytest.approx(found.value)
    assert run.data.metrics["probe/sentiment/mean/embeddings/low"] == pytest.approx(found.low)
    assert "probe.csv" in {one.path for one in client.list_artifacts(run.info.run_id)}
    assert [one.path for one in client.list_artifacts(run.info.run_id, "figures")] == ["figures/probe.png"]
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert len(below) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data.reviews.split={validation: 0.2, test: 0.0}", "there are no test rows: set split"),
        ("data.reviews.split={validation: 0.0, test: 0.2}", "no validation rows"),
    ],
)
def test_rows_to_choose_by_and_to_compare_on_are_needed(settings: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        probed(small(TRAINING, "training.monitor=training/loss", "tracking.enabled=false", settings))
    assert message in str(caught.value)


def test_heads_that_read_words_are_left_out_and_alone_are_refused(tmp_path: Path) -> None:
    rows = [{"words": ["a", "b"], "tags": "X Y", "kind": kind} for kind in "xyxyxyxyxy"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tasks = {"tag": {"label": "tags", "head": {"kind": "tagging"}}, "kind": {"label": "kind"}}
    settings = [f"data={{rows: {{path: {tmp_path / 'rows.jsonl'}, words: words}}}}", f"tasks={json.dumps(tasks)}"]
    assert list(with_frozen_encoder(small(TRAINING, *settings)).trained_tasks) == ["kind"]
    del tasks["kind"]
    alone = small(TRAINING, settings[0], f"tasks={json.dumps(tasks)}")
    with pytest.raises(ConfigurationError, match="probe compares pooled vectors, and every head reads words"):
        with_frozen_encoder(alone)


def test_a_monitor_may_name_one_task_alone() -> None:
    result = probed(small(TRAINING, "tracking.enabled=false", "training.monitor=validation/sentiment/macro_f1"))
    assert result.metrics == {"sentiment": "macro_f1", "category": "accuracy"}


def test_what_was_stored_before_does_not_leave_the_rest_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    one_seed = [TRAINING, "training.seeds=[0]", "tracking.enabled=false"]
    train_seeds(small(*one_seed, "freeze={kind: all}", "training.seeds=[0, 1]"), output=None)
    stored = len(list_entries(cache_folder()))
    with trained_here(), pytest.raises(KeyboardInterrupt):
        probe(small(*one_seed), observer=AtOnce())
    assert len(list_entries(cache_folder())) == stored + 5


class AtOnce(StudyObserver):
    """Interrupts before a probe is trained."""

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        raise KeyboardInterrupt


def test_it_is_public() -> None:
    assert topwork.probe is probe
