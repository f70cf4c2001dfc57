"""Each task by itself, and what it gained from the others."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from run_helpers import QUICKSTART, small
from topwork.engine.observer import Observer
from topwork.errors import ConfigurationError
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.runs import train, train_seeds

SETTINGS = ["training={epochs: 3, batch_size: 16, device: cpu}"]


class Watcher(Observer):
    """Counts what begins."""

    begun = 0

    def begin(self, phase: str, total: int) -> None:
        self.begun += 1


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'runs.db'}"


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return train(small(*SETTINGS, f"tracking.uri={uri_of(folder)}"), output=folder / "model", alone=True), folder


def test_a_gain_is_that_over_a_run_of_the_task_alone(
    joint: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = joint
    monkeypatch.chdir(tmp_path)
    assert result.against_alone.keys() == result.estimates.keys()
    for task in ("sentiment", "category"):
        alone = train(small(*SETTINGS, "tracking.enabled=false", f"training.tasks=[{task}]"), output=tmp_path / task)
        assert {name.partition("/")[0] for name in alone.estimates} == {task}
        for name, estimate in alone.estimates.items():
            gain = result.against_alone[name]
            assert gain.value == pytest.approx(result.estimates[name].value - estimate.value, abs=1e-6)


def test_mlflow_has_the_gains_and_a_run_below_for_each_task(
    joint: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = joint
    monkeypatch.chdir(folder)
    client = MlflowClient(tracking_uri=uri_of(folder))
    run = client.get_run(result.run_id)
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    names = {f"{result.name}-alone-{task}" for task in ("sentiment", "category")}
    assert {one.info.run_name for one in below} == names
    for name, gain in result.against_alone.items():
        assert run.data.metrics[f"test/{name}/against_alone"] == pytest.approx(gain.value)
    compared = compare([f"{result.name}-alone-sentiment", result.name], uri=uri_of(folder))
    name = "sentiment/accuracy"
    assert compared.differences[name][0].value == pytest.approx(result.against_alone[name].value, abs=1e-6)


def test_only_the_joint_model_is_saved(joint: tuple[Result, Path]) -> None:
    result, folder = joint
    assert result.folder == folder / "model"
    assert not (folder / "models").exists()


def test_with_several_seeds_gains_are_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["training={epochs: 1, device: cpu, seeds: [0, 1]}", "tracking.enabled=false"]
    result = train_seeds(small(*settings), output=tmp_path / "models", alone=True)
    assert {gain.seeds for gain in result.against_alone.values()} == {2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.monitor=validation/category/accuracy"], "says nothing of sentiment"),
        (["training.tasks=[category]"], "category is the only task, so that nothing is to be compared with it alone"),
    ],
)
def test_what_does_not_fit_a_task_alone_is_refused_before_anything_is_trained(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    watched = Watcher()
    with pytest.raises(ConfigurationError, match=message):
        split = "data.reviews.split={validation: 0.2, test: 0.2}"
        experiment = small("tracking.enabled=false", *SETTINGS, split, *settings)
        train(experiment, output=tmp_path / "model", observer=watched, alone=True)
    assert watched.begun == 0


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["mixed", "single"])
def test_where_batches_mix_sources_it_is_said_that_steps_differ(
    batches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = QUICKSTART.parent / "data" / "synthetic_reviews.csv"
    sources = ", ".join(f"{name}: {{path: {path}, limit: {rows}}}" for name, rows in (("many", 60), ("few", 40)))
    settings = [f"data={{{sources}}}", "tasks.sentiment.source=many", "tasks.category.source=few"]
    experiment = small(*SETTINGS, *settings, f"sampling.batches={batches}", "tracking.enabled=false")
    said = [one for one in train(experiment, output="model", alone=True).warnings if one.startswith("batches mix rows")]
    assert len(said) == (batches == "mixed")
