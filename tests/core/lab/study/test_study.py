"""Whole studies, with real workers, a real database and a real MLflow store."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import topwork
from small_experiment import QUICKSTART
from study_helpers import make_study, run_study, runs_of, settings, trials_of
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.search import vary
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.study.result import StudyObserver, StudyResult, Trial
from topwork.lab.tracking.store import STUDY_TAG, flatten
from topwork.lab.tracking.study_log import STATE_TAG, TRIAL_TAG

pytestmark = pytest.mark.slow

TRIALS = 6

SEEDS = [0, 1]


class Watcher(StudyObserver):
    """Remembers how many trials were finished at each look."""

    def __init__(self) -> None:
        self.looks: list[tuple[int, int, int]] = []
        self.finished: list[Trial] = []

    def trials(self, finished: list[Trial], running: int, wanted: int) -> None:
        self.looks.append((len(finished), running, wanted))
        self.finished = finished


@dataclass(frozen=True)
class Studied:
    """A study that was carried out, and what it left."""

    folder: Path
    result: StudyResult
    watcher: Watcher
    parent: Run
    children: list[Run]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.result.tracking_uri)

    @property
    def best(self) -> Trial:
        return next(trial for trial in self.result.trials if trial.number == self.result.best[0])


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Iterator[Studied]:
    """A study of the pair with two seeds."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("TOPWORK_CACHE", str(folder / "cache"))
        watcher = Watcher()
        study = make_study(trials=TRIALS, seeds=SEEDS, epochs=3)
        result = topwork.study(study, observer=watcher)
    parents, children = runs_of(str(result.tracking_uri))
    yield Studied(folder, result, watcher, parents[0], children)


def test_a_study_has_as_many_trials_as_were_asked_for(studied: Studied) -> None:
    assert [trial.state for trial in studied.result.trials] == ["complete"] * TRIALS
    assert len({tuple(trial.parameters.values()) for trial in studied.result.trials}) == TRIALS
    assert studied.result.own == 0
    assert studied.result.trials[0].parameters == {"heads_lr": 1e-3, "backbone_lr": 5e-5}


def test_the_best_trial_is_the_one_with_the_best_value(studied: Studied) -> None:
    best = max(trial.values[0] for trial in studied.result.trials)
    assert studied.best.values[0] == pytest.approx(best, rel=1e-6)
    expected = {
        f"optimizer.{name}": (studied.result.trials[0].parameters[name], value)
        for name, value in studied.best.parameters.items()
        if value != studied.result.trials[0].parameters[name]
    }
    assert studied.result.changes == {studied.best.number: expected}


def test_the_best_values_train_to_what_the_study_says(studied: Studied, tmp_path: Path) -> None:
    file = studied.result.files[studied.best.number]
    assert file.read_text(encoding="utf-8").startswith(f"# topwork train {file}\n")
    results: list[Result] = []
    for seed in SEEDS:
        overrides = ["tracking.enabled=false", f"training.seed={seed}"]
        results.append(topwork.train(load_experiment(file, overrides), output=tmp_path / f"seed{seed}"))
    means = []
    for result in results:
        best = next(epoch.metrics for epoch in result.epochs if epoch.number == result.best)
        means.append((best["validation/sentiment/accuracy"] + best["validation/category/accuracy"]) / 2)
    assert studied.best.values[0] == pytest.approx(sum(means) / 2)
    judged = studied.result.judgements[studied.best.number].estimates["category/accuracy"]
    assert judged.value == pytest.approx(sum(r.estimates["category/accuracy"].value for r in results) / 2)
    assert judged.low < judged.value < judged.high


def test_the_gain_is_the_difference_of_the_two_estimates(studied: Studied) -> None:
    own = studied.result.judgements[0]
    for number, judgement in studied.result.judgements.items():
        for name, gain in judgement.gains.items():
            assert gain.value == pytest.approx(judgement.estimates[name].value - own.estimates[name].value, abs=1e-6)
            assert gain.low <= gain.value <= gain.high
        assert bool(judgement.gains) == (number != 0)


def test_progress_is_told_with_the_best_first(studied: Studied) -> None:
    assert studied.watcher.looks[0] == (0, 0, TRIALS)
    assert studied.watcher.looks[-1] == (TRIALS, 0, TRIALS)
    assert max(running for _, running, _ in studied.watcher.looks) == 2
    assert studied.watcher.finished[0].number == studied.best.number


def test_every_trial_is_a_run_below_the_study(studied: Studied) -> None:
    assert studied.parent.info.run_id == studied.result.run_id
    assert studied.parent.info.run_name == "quickstart"
    assert len(studied.children) == TRIALS
    by_number = {int(run.data.tags[TRIAL_TAG]): run for run in studied.children}
    for trial in studied.result.trials:
        run = by_number[trial.number]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == studied.result.run_id
        assert run.data.tags[STATE_TAG] == "complete"
        assert run.data.tags[STUDY_TAG] == "quickstart"
        assert run.data.tags["data.digest"] == studied.parent.data.tags["data.digest"]
        assert {name: float(value) for name, value in run.data.params.items()} == trial.parameters
        assert run.data.metrics["objective"] == pytest.approx(trial.values[0])


def test_a_trial_has_its_metrics_by_epoch(studied: Studied) -> None:
    run = studied.children[0]
    for name in ("epoch/objective", "loss", "sentiment/accuracy", "category/macro_f1"):
        steps = [metric.step for metric in studied.client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, 3 * len(SEEDS) + 1))


def test_the_study_has_its_figures_and_files(studied: Studied) -> None:
    client, run_id = studied.client, str(studied.result.run_id)
    figures = {artifact.path.removeprefix("figures/") for artifact in client.list_artifacts(run_id, "figures")}
    assert figures >= {"contour.png", "history.png", "parallel_coordinates.png", "study.html"}
    assert {artifact.path for artifact in client.list_artifacts(run_id)} >= {"best.yaml", "experiment.yaml"}
    page = Path(client.download_artifacts(run_id, "figures/study.html")).read_text(encoding="utf-8")
    assert page.count("plotly-graph-div") >= 3
    assert 'src="http' not in page  # it needs no network


def test_the_study_has_its_settings_and_its_outcome(studied: Studied) -> None:
    params, metrics = studied.parent.data.params, studied.parent.data.metrics
    assert params["search.optimizer.heads_lr"] == "0.0001 to 0.1, logarithmic"
    assert params["study.objective"] == "mean(sentiment/accuracy, category/accuracy)"
    assert metrics["trials"] == TRIALS
    assert metrics["best/objective"] == pytest.approx(studied.best.values[0])
    estimate = studied.result.judgements[studied.best.number].estimates["sentiment/accuracy"]
    for end, value in (("", estimate.value), ("/low", estimate.low), ("/high", estimate.high)):
        assert metrics[f"best/test/sentiment/accuracy{end}"] == pytest.approx(value)
    assert not any("test" in name for run in studied.children for name in run.data.metrics)


def test_trials_can_be_compared_row_by_row(studied: Studied) -> None:
    names = [f"quickstart-{number}" for number in (0, 1)]
    compared = compare(names, uri=studied.result.tracking_uri)
    assert set(compared.settings) == {"optimizer.heads_lr", "optimizer.backbone_lr"}
    assert compared.estimates["category/accuracy"][0] == studied.result.judgements[0].estimates["category/accuracy"]


def test_a_changed_experiment_does_not_go_on_with_the_study(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studied.folder)
    with pytest.raises(ConfigurationError) as caught:
        topwork.study(make_study("optimizer.weight_decay=0.5", trials=TRIALS, seeds=SEEDS, epochs=3))
    said = str(caught.value).splitlines()
    assert said[1] == "optimizer.weight_decay: 0.01 then, 0.5 now"
    assert said[2] == "set another study.name to begin anew, or change these back to go on"


def test_each_trial_is_measured_by_its_own_head(store_uri: str) -> None:
    search = {"tasks.sentiment.head.kind": {"choices": ["binary", "classification"]}}
    tracked = f"tracking.uri={store_uri}"
    study = make_study(tracked, search=search, objective=["sentiment/loss", "category/loss"], sampler="grid", epochs=8)
    result = topwork.study(study)
    compared = compare(["quickstart-0", "quickstart-1"], uri=store_uri)
    for number, kind in enumerate(["binary", "classification"]):
        alone = load_experiment(QUICKSTART, settings("tracking.enabled=false", epochs=8))
        trained = topwork.train(vary(alone, {"tasks.sentiment.head.kind": kind}, topwork.discover()), output=Path(kind))
        expected = trained.estimates["sentiment/accuracy"]
        assert compared.estimates["sentiment/accuracy"][number].value == pytest.approx(expected.value)
        if number in result.judgements:
            assert result.judgements[number].estimates["sentiment/accuracy"].value == pytest.approx(expected.value)


def test_outputs_of_another_study_of_the_name_are_never_taken_for_its_own(tmp_path: Path) -> None:
    run_study(trials=2)
    elsewhere = f"sqlite:///{tmp_path / 'shared.db'}"
    here = run_study(trials=2, storage=elsewhere, epochs=5)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        there = run_study(trials=2, storage=elsewhere, epochs=5)
    assert there.judgements == {}
    assert len([warning for warning in there.warnings if "are neither in " in warning]) >= 1
    assert here.judgements[0].estimates != {}


def test_best_yaml_differs_from_the_experiment_in_what_is_printed_alone() -> None:
    result = run_study(trials=2, seeds=[5, 6], epoch="last")
    (number,) = result.best
    assert result.changes[number]["training.seed"] == (0, 5)
    assert result.changes[number]["training.patience"] == (2, None)
    text = result.files[number].read_text(encoding="utf-8")
    assert f"# Trial {number} of study quickstart, judged by its mean over seeds 5, 6; this is the first.\n" in text
    before, after = flatten(make_study().dump()), flatten(load_experiment(result.files[number]).dump())
    differ = {path for path in before if before[path] != after[path]}
    assert differ - {"data.reviews.path", "tracking.enabled"} == set(result.changes[number])


def test_files_of_a_front_that_is_no_more_go(tmp_path: Path) -> None:
    (tmp_path / "studies" / "quickstart").mkdir(parents=True)
    stale = tmp_path / "studies" / "quickstart" / "best-99.yaml"
    stale.write_text("old")
    result = run_study(objective=["loss", "sentiment/accuracy"], trials=2)
    assert not stale.exists()
    assert all(file.exists() for file in result.files.values())


def test_passwords_do_not_get_into_mlflow(store_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("data/", f"{QUICKSTART.parent}/data/")
    file.write_text(text + "# mlflow is at https://me:hush@example.org\n")
    result = topwork.study(load_experiment(file, settings(f"tracking.uri={store_uri}", trials=1)))
    content = MlflowClient(tracking_uri=store_uri).download_artifacts(str(result.run_id), "experiment.yaml")
    assert "# mlflow is at https://me:***@example.org" in Path(content).read_text(encoding="utf-8")


def test_hyperband_prunes_too() -> None:
    search = {"optimizer.heads_lr": {"choices": [1e-3, *(10.0**-power for power in range(4, 18))]}}
    result = run_study(
        search=search, objective="category/loss", sampler="grid", pruner="hyperband", trials=15, workers=1, epochs=9
    )
    assert len(result.trials) == 15
    assert "pruned" in [trial.state for trial in result.trials]
    assert result.best


def test_hopeless_trials_are_pruned_with_several_seeds_too() -> None:
    rates = [0.03, *(10.0**-power for power in range(7, 18))]
    result = run_study(
        search={"optimizer.heads_lr": {"choices": [1e-3, *rates]}},
        objective="category/loss",
        sampler="grid",
        pruner="median",
        seeds=SEEDS,
        trials=13,
        workers=1,
        epochs=6,
    )
    states = [trial.state for trial in result.trials]
    assert "pruned" in states
    assert states.count("complete") >= 5  # the median needs some to compare with
    assert all(trial.values for trial in result.trials)
    pruned = next(trial.number for trial in result.trials if trial.state == "pruned")
    (stored,) = [t for t in trials_of(f"sqlite:///{result.folder / 'study.db'}") if t.number == pruned]
    assert 0 < max(stored.intermediate_values) < 6 * len(SEEDS)


def test_several_objectives_give_a_front(tmp_path: Path, store_uri: str) -> None:
    result = topwork.study(
        make_study(
            f"tracking.uri={store_uri}", objective=["sentiment/accuracy", "category/loss"], trials=5, sampler="random"
        )
    )
    assert result.rising == (True, False)
    by_number = {trial.number: trial.values for trial in result.trials}
    for number, (accuracy, loss) in by_number.items():
        better = any(a >= accuracy + 1e-6 and b <= loss - 1e-6 for a, b in by_number.values())
        assert not (number in result.best and better)
    assert set(result.files) == set(result.best)
    for number, file in result.files.items():
        assert file.name == f"best-{number}.yaml"
        assert load_experiment(file).optimizer
    client = MlflowClient(tracking_uri=store_uri)
    figures = {artifact.path for artifact in client.list_artifacts(str(result.run_id), "figures")}
    assert {"figures/pareto_front.png", "figures/contour_1.png", "figures/contour_2.png"} <= figures
    (_, *_), children = runs_of(store_uri)
    assert {"objective_1", "objective_2"} <= children[0].data.metrics.keys()


def test_texts_are_encoded_before_the_first_trial_and_anew_where_the_cut_moves() -> None:
    search = {"freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.1"]]}}
    result = run_study("training.store=require", search=search, sampler="grid", trials=2, workers=1)
    assert result.encoding_seconds > 0
    kept = list((Path(os.environ["TOPWORK_CACHE"]) / "activations").iterdir())
    assert len(kept) == 2
    again = run_study("training.store=require", search=search, sampler="random", trials=2, name="again")
    assert again.encoding_seconds == 0


def test_without_test_rows_nothing_is_said_of_other_texts() -> None:
    result = run_study("data.reviews.split={validation: 0.3, test: 0.0}", trials=2)
    assert result.judgements == {}
    assert "there are no test rows, so what the best values are worth on other texts is not known" in result.warnings


def test_after_the_timeout_no_trial_begins() -> None:
    result = run_study(trials=10000, timeout=8.0)
    assert 0 < len(result.trials) < 10000


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_samplers_that_learn_get_past_their_random_beginning(sampler: str) -> None:
    result = run_study(trials=13, sampler=sampler)
    assert [trial.state for trial in result.trials] == ["complete"] * 13
