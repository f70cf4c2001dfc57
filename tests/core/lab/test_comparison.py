"""Runs are compared on the rows that all of them were judged on, or refused with the reason."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from small_experiment import QUICKSTART, SMALL
from topwork.cli import main
from topwork.errors import ConfigurationError, StorageError, TopworkError
from topwork.experiment.loading import load_experiment
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.runs import train

Train = Callable[..., Result]


@dataclass(frozen=True)
class Three:
    """Two runs that differ in a rate, and one with other test rows."""

    uri: str
    first: Result
    second: Result
    other_rows: Result


@pytest.fixture(scope="module")
def three(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Three:
    folder = tmp_path_factory.mktemp("three")
    uri = f"sqlite:///{folder}/mlflow.db"

    def run(name: str, *settings: str) -> Result:
        experiment = load_experiment(QUICKSTART, [*SMALL, f"tracking.uri={uri}", f"name={name}", *settings])
        return train(experiment, output=folder / name)

    return Three(uri, run("first"), run("second", "optimizer.heads_lr=0.02"), run("third", "data.reviews.limit=90"))


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
        assert (change.p is None) == name.endswith("macro_f1")


@pytest.mark.parametrize("uri", ["given", "in the variable"])
def test_the_command_prints_the_comparison(
    three: Three, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["topwork", "compare", three.first.name, three.second.name]
    if uri == "given":
        arguments += ["--uri", three.uri]
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", three.uri)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if line.startswith("optimizer.")] == [
        ["optimizer.heads_lr", "0.001", "0.02"]
    ]
    assert "metrics on the same 20 test rows" in printed
    assert f"difference from {three.first.name}" in printed
    value = three.second.estimates["sentiment/accuracy"].value - three.first.estimates["sentiment/accuracy"].value
    assert f"{value:+.3f}" in printed


def test_runs_with_other_test_rows_are_refused(three: Three) -> None:
    names = three.first.name, three.other_rows.name
    with pytest.raises(ConfigurationError) as caught:
        compare(names, uri=three.uri)
    assert str(caught.value) == f"runs {names[0]} and {names[1]} cannot be compared: their test rows differ"


def test_all_runs_that_are_not_there_are_named(three: Three) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compare([f"{three.first.name}x", "0123456789"], uri=three.uri)
    near, far = str(caught.value).splitlines()
    assert near == (
        f"there is no run '{three.first.name}x' in {three.uri}, by name or id; did you mean {three.first.name}?"
    )
    assert far == f"there is no run '0123456789' in {three.uri}, by name or id"


def test_a_name_that_several_runs_have_is_refused_with_their_ids(three: Three) -> None:
    client = MlflowClient(tracking_uri=three.uri)
    experiment = client.get_run(str(three.first.run_id)).info.experiment_id
    ids = {client.create_run(experiment, run_name="twin").info.run_id for _ in range(2)}
    with pytest.raises(ConfigurationError, match="2 runs are named 'twin'; give an id: ") as caught:
        compare(["twin", three.first.name], uri=three.uri)
    assert set(str(caught.value).rpartition(": ")[2].split(", ")) == ids


def test_a_run_that_kept_no_outputs_is_refused(three: Three) -> None:
    client = MlflowClient(tracking_uri=three.uri)
    experiment = client.get_run(str(three.first.run_id)).info.experiment_id
    client.create_run(experiment, run_name="unfinished")
    with pytest.raises(ConfigurationError) as caught:
        compare(["unfinished", three.first.name], uri=three.uri)
    assert str(caught.value) == (
        "run unfinished (RUNNING) did not keep what its model said of each row, so it cannot be compared; "
        "compare finished runs of this version of topwork"
    )


@pytest.mark.parametrize(("runs", "shown"), [([], "none"), (["a"], "a"), (["a", "a"], "a, a")])
def test_fewer_than_two_runs_are_nothing_to_compare(runs: list[str], shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compare(runs)
    assert str(caught.value) == f"name two or more different runs to compare, got {shown}"


def test_one_run_by_name_and_by_id_is_one_run(three: Three) -> None:
    with pytest.raises(ConfigurationError, match=r"name different runs to compare: some of .* are the same run"):
        compare([three.first.name, str(three.first.run_id)], uri=three.uri)


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_text("junk")
    with pytest.raises(StorageError) as caught:
        compare(["a", "b"], uri=f"sqlite:///{tmp_path}/junk.db")
    assert str(caught.value) == f"the MLflow store sqlite:///{tmp_path}/junk.db cannot be read: file is not a database"


def test_a_database_that_does_not_answer_is_said_at_once() -> None:
    pytest.importorskip("psycopg", reason="the extra topwork[postgresql] is not installed")
    with pytest.raises(StorageError, match=r"postgresql://\*\*\*@127.0.0.1:9/db cannot be read: connection failed"):
        compare(["a", "b"], uri="postgresql://me:hush@127.0.0.1:9/db")


def test_a_store_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        compare(["a", "b"])
    assert str(caught.value) == (
        f"there is no MLflow store {tmp_path}/mlflow.db; name one with --uri, or set MLFLOW_TRACKING_URI"
    )
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with pytest.raises(TopworkError, match=r"the MLflow store http://127\.0\.0\.1:9 cannot be read: "):
        compare(["a", "b"], uri="http://127.0.0.1:9")


HITS = """\
from typing import Literal
import topwork
from topwork_plugins.heads.classification import ClassificationConfig

class HitsConfig(ClassificationConfig):
    kind: Literal["hits"] = "hits"

    def build(self, width, labels):
        head = super().build(width, labels)
        accuracy = next(metric for metric in head.metrics if metric.name == "accuracy")
        hits = topwork.Metric("hits", accuracy.of, True)
        return topwork.Head(module=head.module, loss=head.loss, decode=head.decode, metrics=[hits])

@topwork.hookimpl
def register_heads(register):
    register(HitsConfig)
"""


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
