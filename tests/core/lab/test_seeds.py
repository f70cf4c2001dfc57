"""Several seeds in one command: one encoding, a run for each below one that has the means."""

import statistics
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.observer import EncodingReport, Observer
from topwork.errors import ConfigurationError
from topwork.lab.comparison import compare
from topwork.lab.result import SeedsResult
from topwork.lab.runs import train, train_seeds

pytestmark = pytest.mark.slow

SETTINGS = ["training={epochs: 2, batch_size: 16, device: cpu, seeds: [3, 1]}"]
MINILM = ["backbone={kind: minilm}", "freeze={kind: all}"]  # weights that do not depend on the seed


class Counter(Observer):
    """Counts the texts that are encoded, and notes which runs begin."""

    def __init__(self) -> None:
        self.encoded_texts: list[int] = []
        self.runs: list[str] = []

    def run(self, name: str) -> None:
        self.runs.append(name)

    def encoded(self, report: EncodingReport) -> None:
        self.encoded_texts.append(report.encoded)


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'runs.db'}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeedsResult, Counter, Path]:
    folder = tmp_path_factory.mktemp("seeds")
    counter = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOPWORK_CACHE", str(folder / "cache"))
        experiment = small(*SETTINGS, f"tracking.uri={uri_of(folder)}", *MINILM)
        return train_seeds(experiment, output=folder / "models", observer=counter), counter, folder


def test_texts_are_encoded_once(trained: tuple[SeedsResult, Counter, Path]) -> None:
    counter = trained[1]
    assert counter.runs == ["seed 3", "seed 1"]
    assert [count > 0 for count in counter.encoded_texts] == [True, False]


def test_each_seed_is_trained_as_if_alone(
    trained: tuple[SeedsResult, Counter, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, folder = trained
    monkeypatch.chdir(folder)
    settings = ["training={epochs: 2, batch_size: 16, device: cpu, seed: 1}", "tracking.enabled=false", *MINILM]
    single = train(small(*settings), output=folder / "single")
    assert result.by_seed[1].estimates == single.estimates
    models = [load_model(path).model.state_dict() for path in (folder / "single", folder / "models" / "seed-1")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    others = load_model(folder / "models" / "seed-3").model.state_dict()
    assert not all(torch.equal(models[0][name], others[name]) for name in others)


def test_figures_are_means_with_deviations_and_intervals_of_seeds_and_rows(
    trained: tuple[SeedsResult, Counter, Path],
) -> None:
    result = trained[0]
    assert list(result.by_seed) == [3, 1]
    for name, estimate in result.estimates.items():
        values = [one.estimates[name].value for one in result.by_seed.values()]
        assert estimate.value == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert estimate.sd == pytest.approx(statistics.stdev(values), abs=1e-6)
        assert estimate.seeds == 2
        if estimate.low == estimate.low:
            assert estimate.low <= estimate.value <= estimate.high
    first = next(iter(result.estimates))
    of_rows = [one.estimates[first] for one in result.by_seed.values()]
    width = result.estimates[first].high - result.estimates[first].low
    assert result.estimates[first].sd == 0 or width > 0
    assert {one.rows for one in of_rows} == {result.estimates[first].rows}


def test_mlflow_has_a_run_with_the_means_and_one_below_it_for_each_seed(
    trained: tuple[SeedsResult, Counter, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, folder = trained
    monkeypatch.chdir(folder)
    client = MlflowClient(tracking_uri=uri_of(folder))
    parent = client.get_run(result.run_id)
    assert parent.data.params["training.seeds"] == "[3, 1]"
    below = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert {run.info.run_name for run in below} == {f"{result.name}-seed-{seed}" for seed in (1, 3)}
    assert {run.info.status for run in [parent, *below]} == {"FINISHED"}
    metrics = parent.data.metrics
    for name, estimate in result.estimates.items():
        assert metrics[f"test/{name}"] == pytest.approx(estimate.value)
        assert metrics[f"test/{name}/sd"] == pytest.approx(estimate.sd)
    assert {run.data.params["training.seed"] for run in below} == {"1", "3"}


def test_runs_of_as_many_seeds_are_compared_seed_by_seed(
    trained: tuple[SeedsResult, Counter, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, folder = trained
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_RUN_NAME", "longer")
    train_seeds(
        small(*SETTINGS, f"tracking.uri={uri_of(folder)}", *MINILM, "training.epochs=3"), output=folder / "longer"
    )
    compared = compare([result.name, "longer"], uri=uri_of(folder))
    assert {one.seeds for of_metric in compared.differences.values() for one in of_metric} == {2}
    for name, (before, after) in compared.estimates.items():
        assert compared.differences[name][0].value == pytest.approx(after.value - before.value, abs=1e-6)
        assert before.value == pytest.approx(result.estimates[name].value, abs=1e-6)
    with pytest.raises(ConfigurationError, match="one is the mean over 2 seeds, the other over 1"):
        compare([result.name, f"{result.name}-seed-1"], uri=uri_of(folder))


def test_one_seed_has_no_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["training={epochs: 1, device: cpu, seeds: [5]}", "tracking.enabled=false"]
    result = train_seeds(small(*settings), output=tmp_path / "models")
    assert {one.sd for one in result.estimates.values()} == {None}
    assert list(result.by_seed) == [5]


def test_one_run_cannot_have_several_seeds(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"train them with topwork\.train_seeds"):
        train(small(*SETTINGS), output=tmp_path / "model")
