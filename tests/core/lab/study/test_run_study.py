"""Whole studies, with real workers, a real database and a real MLflow store."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import topwork
from small_experiment import QUICKSTART
from study_helpers import make_study, run_study, run_study_here, runs_of, settings, trained_here, trials_of
from topwork.errors import ConfigurationError, StorageError
from topwork.experiment.loading import load_experiment
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.study.result import FailedStudyError, StudyObserver, StudyResult, TrialSummary
from topwork.lab.study.trial_queue import MAX_FAILURES
from topwork.lab.tracking.study_log import TRIAL_TAG, StudyLog

pytestmark = pytest.mark.slow

TRIALS = 6

SEEDS = [0, 1]


class Watcher(StudyObserver):
    """Remembers how many trials were finished at each look."""

    def __init__(self) -> None:
        self.looks: list[tuple[int, int, int]] = []
        self.finished: list[TrialSummary] = []

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        self.looks.append((len(finished), running, n_trials))
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
    def best(self) -> TrialSummary:
        return next(trial for trial in self.result.trials if trial.number == self.result.best[0])


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, _migrated_store: Path, installed: Path) -> Iterator[Studied]:
    """A study of the pair with two seeds."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(_migrated_store, folder / "mlflow.db")
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
    assert studied.result.baseline == 0
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
        best = next(epoch.metrics for epoch in result.epochs if epoch.number == result.best_epoch)
        means.append((best["validation/sentiment/accuracy"] + best["validation/category/accuracy"]) / 2)
    assert studied.best.values[0] == pytest.approx(sum(means) / 2)
    evaluated = studied.result.evaluations[studied.best.number].estimates["category/accuracy"]
    assert evaluated.value == pytest.approx(sum(r.estimates["category/accuracy"].value for r in results) / 2)
    assert evaluated.low < evaluated.value < evaluated.high


def test_progress_is_told_with_the_best_first(studied: Studied) -> None:
    assert studied.watcher.looks[0] == (0, 0, TRIALS)
    assert studied.watcher.looks[-1] == (TRIALS, 0, TRIALS)
    assert max(running for _, running, _ in studied.watcher.looks) == 2
    assert studied.watcher.finished[0].number == studied.best.number


@pytest.mark.reliability("D55")
def test_every_trial_is_a_run_below_the_study(studied: Studied) -> None:
    assert studied.parent.info.run_id == studied.result.run_id
    assert studied.parent.info.run_name == "quickstart"
    assert len(studied.children) == TRIALS
    by_number = {int(run.data.tags[TRIAL_TAG]): run for run in studied.children}
    for trial in studied.result.trials:
        run = by_number[trial.number]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == studied.result.run_id
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
    estimate = studied.result.evaluations[studied.best.number].estimates["sentiment/accuracy"]
    for end, value in (("", estimate.value), ("/low", estimate.low), ("/high", estimate.high)):
        assert metrics[f"best/test/sentiment/accuracy{end}"] == pytest.approx(value)
    assert not any("test" in name for run in studied.children for name in run.data.metrics)


def test_trials_can_be_compared_row_by_row(studied: Studied) -> None:
    names = [f"quickstart-{number}" for number in (0, 1)]
    compared = compare(names, uri=studied.result.tracking_uri)
    assert set(compared.settings) == {"optimizer.heads_lr", "optimizer.backbone_lr"}
    assert compared.estimates["category/accuracy"][0] == studied.result.evaluations[0].estimates["category/accuracy"]


def test_a_changed_experiment_does_not_go_on_with_the_study(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studied.folder)
    with pytest.raises(ConfigurationError) as caught:
        topwork.study(make_study("optimizer.weight_decay=0.5", trials=TRIALS, seeds=SEEDS, epochs=3))
    said = str(caught.value).splitlines()
    assert said[1] == "optimizer.weight_decay: 0.01 then, 0.5 now"
    assert said[2] == "set another study.name to start anew, or change these back to resume"


def test_a_finished_study_is_told_again_without_any_training(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studied.folder)
    monkeypatch.setenv("TOPWORK_CACHE", str(studied.folder / "cache"))
    watcher = Watcher()
    with trained_here():
        again = topwork.study(make_study(trials=TRIALS, seeds=SEEDS, epochs=3), observer=watcher)
    assert watcher.looks[0] == watcher.looks[-1] == (TRIALS, 0, TRIALS)
    assert (again.trials, again.best, again.evaluations) == (
        studied.result.trials,
        studied.result.best,
        studied.result.evaluations,
    )
    assert again.run_id == studied.result.run_id
    assert again.encoding_seconds == 0.0
    parents, children = runs_of(str(again.tracking_uri))
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert len(children) == TRIALS


def test_several_objectives_give_a_front(tmp_path: Path, store_uri: str) -> None:
    stale = tmp_path / "studies" / "quickstart" / "best-99.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("of a front that is no more")
    file = tmp_path / "secret.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("data/", f"{QUICKSTART.parent}/data/")
    file.write_text(text + "# mlflow is at https://me:hush@example.org\n", encoding="utf-8")
    objectives = ["sentiment/accuracy", "category/loss"]
    overrides = settings(f"tracking.uri={store_uri}", objective=objectives, trials=4, sampler="random")
    with trained_here():
        result = topwork.study(load_experiment(file, overrides))
    assert result.maximize == (True, False)
    by_number = {trial.number: trial.values for trial in result.trials}
    for number, (accuracy, loss) in by_number.items():
        better = any(a >= accuracy + 1e-6 and b <= loss - 1e-6 for a, b in by_number.values())
        assert not (number in result.best and better)
    assert set(result.files) == set(result.best)
    assert not stale.exists()
    for number, path in result.files.items():
        assert path.name == f"best-{number}.yaml"
        assert load_experiment(path).optimizer
    client, run_id = MlflowClient(tracking_uri=store_uri), str(result.run_id)
    figures = {artifact.path for artifact in client.list_artifacts(run_id, "figures")}
    assert {"figures/pareto_front.png", "figures/contour_1.png", "figures/contour_2.png"} <= figures
    _, children = runs_of(store_uri)
    assert {"objective_1", "objective_2"} <= children[0].data.metrics.keys()
    content = client.download_artifacts(run_id, "experiment.yaml")
    assert "# mlflow is at https://me:***@example.org" in Path(content).read_text(encoding="utf-8")


def test_texts_are_encoded_before_the_first_trial_and_anew_where_the_cut_moves() -> None:
    search = {"freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.1"]]}}
    result = run_study_here("training.store=require", search=search, sampler="grid", trials=2)
    assert result.encoding_seconds > 0
    kept = list((Path(os.environ["TOPWORK_CACHE"]) / "activations").iterdir())
    assert len(kept) == 2
    assert run_study_here("training.store=require", search=search, sampler="grid", trials=2).encoding_seconds == 0


@pytest.fixture(scope="module")
def timed_out(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> StudyResult:
    """A study without test rows that has no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("timed_out"))
        return run_study_here(
            "data.reviews.split={validation: 0.3, test: 0.0}",
            "training.store=off",
            trials=10000,
            timeout=0.001,
        )


def test_after_the_timeout_no_trial_begins_but_the_first(timed_out: StudyResult) -> None:
    assert [trial.number for trial in timed_out.trials] == [0]
    assert "ended by study.timeout after 1 of 10000 trials" in timed_out.warnings


def test_without_test_rows_nothing_is_said_of_other_texts(timed_out: StudyResult) -> None:
    assert timed_out.evaluations == {}
    assert "there are no test rows, so what the best values are worth on other texts is not known" in timed_out.warnings


def test_fewer_combinations_than_trials_end_a_study_and_are_said() -> None:
    search = {"optimizer.heads_lr": {"choices": [0.01, 0.02]}}
    result = run_study_here(search=search, trials=5, baseline=False)
    assert sorted(trial.parameters["heads_lr"] for trial in result.trials) == [0.01, 0.02]
    assert "study.trials is 5, but the searched values have 2 combinations; each was trained once" in result.warnings
    assert any("was asked for (study.baseline: false), so what is gained" in warning for warning in result.warnings)
    assert result.baseline is None


@pytest.mark.reliability("C47", "C48")
def test_a_study_whose_trials_fail_one_after_another_ends_and_says_why() -> None:
    rates = [1e-3, *(10.0**power for power in range(28, 38))]
    with pytest.raises(FailedStudyError) as caught:
        run_study_here(search={"optimizer.heads_lr": {"choices": rates}}, sampler="grid", trials=11)
    assert str(caught.value).startswith(
        f"study quickstart ended after {MAX_FAILURES} failed trials in a row; the last one: trial {MAX_FAILURES}: "
    )
    assert "training diverged in epoch 1" in str(caught.value)
    assert str(caught.value).endswith("\nfix that, then run the same command to resume")
    result = caught.value.result
    assert [trial.state for trial in result.trials] == ["complete", *["failed"] * MAX_FAILURES]
    assert result.best == [0]
    assert len(trials_of(f"sqlite:///{result.folder / 'study.db'}")) == MAX_FAILURES + 1


@pytest.mark.reliability("C48")
def test_where_no_trial_is_complete_there_is_no_result() -> None:
    with pytest.raises(FailedStudyError, match="no trial of study quickstart is complete; the last that failed: ") as c:
        run_study_here("optimizer.heads_lr=1e30", search={"optimizer.heads_lr": {"choices": [1e30]}}, trials=1)
    assert c.value.result.best == []


def test_where_the_baseline_fails_it_is_said_that_the_gain_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('this is not the standard library')\n")
    search = {"optimizer.heads_lr": {"choices": [1e30, 1e-3]}}
    result = run_study("optimizer.heads_lr=1e30", search=search, trials=2, workers=1, sampler="grid")
    assert len(result.trials) == 2  # a module in the working folder does not reach the workers
    assert result.baseline is None
    assert result.warnings[-1] == (
        "no trial with the experiment's own values is complete, so what is gained is not known"
    )


@pytest.mark.usefixtures("heard")
def test_a_study_that_is_interrupted_while_it_begins_is_marked_so(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = StudyLog.start

    def start(*given: Any) -> None:
        begin(*given)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StudyLog, "start", start)
    with pytest.raises(KeyboardInterrupt):
        topwork.study(make_study(f"tracking.uri={store_uri}"))
    (parent,), _ = runs_of(store_uri)
    assert parent.info.status == "KILLED"


def test_values_that_do_not_fit_the_model_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run_study_here(search={"freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.7.ffn"]]}}, trials=2)
    assert "study.search.freeze.patterns" in str(caught.value)
    assert "layer.7.ffn" in str(caught.value)
    assert not (tmp_path / "studies" / "quickstart" / "study.db").exists()


def test_a_storage_that_is_no_url_is_told_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"study.storage <not a URL> cannot be used: "):
        run_study_here(storage="study.db")
    assert not list(tmp_path.iterdir())
