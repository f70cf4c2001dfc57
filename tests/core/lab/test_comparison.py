"""Runs are compared on the rows that all of them were evaluated on, or refused with the reason."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from small_experiment import QUICKSTART, SMALL
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.loading import load_experiment
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.runs import train
from topwork.lab.tracking.finished_run import OUTPUTS_FILE


@dataclass(frozen=True)
class Three:
    """Two runs that differ in a rate, and one with other test rows."""

    uri: str
    first: Result
    second: Result
    other_rows: Result


@pytest.fixture(scope="module")
def three(_migrated_store: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Three:
    folder = tmp_path_factory.mktemp("three")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"

    def run(name: str, *settings: str) -> Result:
        experiment = load_experiment(QUICKSTART, [*SMALL, f"tracking.uri={uri}", f"name={name}", *settings])
        return train(experiment, output=folder / name)

    return Three(uri, run("first"), run("second", "optimizer.heads_lr=0.02"), run("third", "data.reviews.limit=90"))


@pytest.mark.slow
def test_runs_are_compared_by_what_was_set_and_what_it_changed(three: Three) -> None:
    found = compare([three.first.name, str(three.second.run_id)], uri=three.uri)
    assert found.names == (three.first.name, three.second.name)
    assert found.split == "test"
    assert found.settings == {"optimizer.heads_lr": ["0.001", "0.02"]}
    assert set(found.estimates) == set(three.first.estimates)
    for name, (first, second) in found.estimates.items():
        assert (first, second) == (three.first.estimates[name], three.second.estimates[name])
        (change,) = found.differences[name]
        assert change.value == pytest.approx(second.value - first.value, abs=1e-6)
        assert change.low <= change.value <= change.high
        assert (change.p_value is None) != name.endswith("accuracy")


def test_runs_with_other_test_rows_are_refused(three: Three) -> None:
    names = three.first.name, three.other_rows.name
    with pytest.raises(ConfigurationError) as caught:
        compare(names, uri=three.uri)
    assert str(caught.value) == f"runs {names[0]} and {names[1]} cannot be compared: their test rows differ"


@pytest.mark.parametrize(("runs", "shown"), [([], "none"), (["a"], "a"), (["a", "a"], "a, a")])
def test_fewer_than_two_runs_are_nothing_to_compare(runs: list[str], shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compare(runs)
    assert str(caught.value) == f"name two or more different runs to compare, got {shown}"


HITS = """\
from typing import Literal
import topwork
from topwork_plugins.heads.classification import ClassificationConfig

class HitsConfig(ClassificationConfig):
    kind: Literal["hits"] = "hits"

    def build(self, width, labels):
        head = super().build(width, labels)
        accuracy = next(metric for metric in head.metrics if metric.name == "accuracy")
        hits = topwork.Metric("hits", accuracy.compute, True)
        return topwork.Head(module=head.module, loss=head.loss, decode=head.decode, metrics=[hits])

@topwork.hookimpl
def register_heads(register):
    register(HitsConfig)
"""


@pytest.mark.slow
def test_heads_that_measure_different_things_are_nothing_to_compare(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "hits-1.0.dist-info"
    info.mkdir()
    (tmp_path / "hits_plugin.py").write_text(HITS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[topwork]\nhits = hits_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    heads = [f"tasks.{task}.head={{kind: hits}}" for task in ("sentiment", "category")]
    result = train(load_experiment(QUICKSTART, [*SMALL, f"tracking.uri={three.uri}", *heads]), output=tmp_path / "m")
    with pytest.raises(ConfigurationError) as caught:
        compare([three.first.name, result.name], uri=three.uri)
    runs = f"{three.first.name}, {result.name}"
    assert str(caught.value) == f"runs {runs} cannot be compared: their heads have no metric in common"


def test_a_head_that_is_not_installed_any_more_is_told(three: Three, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=three.uri)
    experiment = client.get_run(str(three.first.run_id)).info.experiment_id
    run_id = client.create_run(experiment, run_name="exotic").info.run_id
    for name in (OUTPUTS_FILE, "experiment.resolved.yaml"):
        file = Path(client.download_artifacts(str(three.first.run_id), name, str(tmp_path)))
        if name != OUTPUTS_FILE:
            file.write_text(file.read_text().replace("kind: classification", "kind: exotic"))
        client.log_artifact(run_id, str(file))
    with pytest.raises(PluginError, match="run exotic needs the head of its task category: no head of kind 'exotic'"):
        compare([three.first.name, "exotic"], uri=three.uri)
