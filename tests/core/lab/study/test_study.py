"""Whole studies, with real workers, a real database and a real MLflow store."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import topwork
from small_experiment import QUICKSTART
from study_helpers import make_study, runs_of, settings, trials_of
from topwork.errors import ConfigurationError, StudyError
from topwork.experiment.loading import load_experiment
from topwork.experiment.search import vary
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.study.ledger import FAILURES
from topwork.lab.study.result import StudyObserver, StudyResult, Trial
from topwork.lab.tracking.store import STUDY_TAG, flatten
from topwork.lab.tracking.study_log import STATE_TAG, TRIAL_TAG, StudyLog

pytestmark = pytest.mark.slow

TRIALS = 6

DEADLY = """\
import os, signal
from typing import Literal
import torch, topwork
from topwork_plugins.heads.binary import BinaryConfig

class DeadlyConfig(BinaryConfig):
    kind: Literal["deadly"] = "deadly"

    def build(self, width, labels):
        head = super().build(width, labels)
        def loss(outputs, targets):
            if torch.is_grad_enabled() and outputs.requires_grad:
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
            return head.loss(outputs, targets)
        return topwork.Head(module=head.module, loss=loss, decode=head.decode, metrics=head.metrics)

@topwork.hookimpl
def register_heads(register):
    register(DeadlyConfig)
"""
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


def study_of(*more: str, **section: Any) -> StudyResult:
    return topwork.study(make_study("tracking.enabled=false", *more, **section))


def test_trials_that_fail_have_a_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    search = {"optimizer.heads_lr": {"choices": [1e-3, 1e30, 1e-2]}, "training.accumulation": {"choices": [1, 16]}}
    search["training.batch_size"] = {"choices": [16, 8]}
    result = study_of(search=search, sampler="grid", trials=12, workers=1)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert len(result.trials) == 12
    for trial in failed:
        if trial.parameters["accumulation"] > trial.parameters["batch_size"]:
            assert trial.reason == "training: accumulation (16) must not exceed batch_size (8)"
        else:
            assert trial.parameters["heads_lr"] == 1e30
            assert trial.reason.startswith("training diverged in epoch 1")
    assert len(failed) == 6
    assert result.best


def test_a_study_whose_trials_fail_one_after_another_ends_and_says_why() -> None:
    rates = [1e-3, *(10.0**power for power in range(28, 38))]
    with pytest.raises(StudyError) as caught:
        study_of(search={"optimizer.heads_lr": {"choices": rates}}, sampler="grid", trials=11, workers=1)
    assert str(caught.value).startswith(
        f"study quickstart ended after {FAILURES} failed trials in a row; the last one: "
    )
    assert "training diverged in epoch 1" in str(caught.value)
    trials = trials_of(f"sqlite:///{Path('studies/quickstart/study.db').resolve()}")
    assert len(trials) == FAILURES + 1


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
    study_of(trials=2)
    elsewhere = f"sqlite:///{tmp_path / 'shared.db'}"
    here = study_of(trials=2, storage=elsewhere, epochs=5)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        there = study_of(trials=2, storage=elsewhere, epochs=5)
    assert there.judgements == {}
    assert len([warning for warning in there.warnings if "are neither in " in warning]) >= 1
    assert here.judgements[0].estimates != {}


def test_damaged_outputs_come_from_mlflow_and_else_are_left_out(store_uri: str) -> None:
    study = make_study(f"tracking.uri={store_uri}", trials=2)
    whole = topwork.study(study)
    file = next(whole.folder.glob("trials/*/0.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    again = topwork.study(study)
    assert again.judgements == whole.judgements
    assert any(one.endswith("; MLflow's copy is used") for one in again.warnings)
    without = topwork.study(make_study("tracking.enabled=false", trials=2))
    assert 0 not in without.judgements
    assert any("outputs of trial 0 on the test rows cannot be read: " in one for one in without.warnings)


def test_best_yaml_differs_from_the_experiment_in_what_is_printed_alone() -> None:
    result = study_of(trials=2, seeds=[5, 6], epoch="last")
    (number,) = result.best
    assert result.changes[number]["training.seed"] == (0, 5)
    assert result.changes[number]["training.patience"] == (2, None)
    text = result.files[number].read_text(encoding="utf-8")
    assert f"# Trial {number} of study quickstart, judged by its mean over seeds 5, 6; this is the first.\n" in text
    before, after = flatten(make_study().dump()), flatten(load_experiment(result.files[number]).dump())
    differ = {path for path in before if before[path] != after[path]}
    assert differ - {"data.reviews.path", "tracking.enabled"} == set(result.changes[number])


def test_where_the_own_values_fail_it_is_said_that_the_gain_is_not_known() -> None:
    result = study_of("optimizer.heads_lr=1e30", search={"optimizer.heads_lr": {"choices": [1e30, 1e-3]}}, trials=2)
    assert result.own is None
    assert "no trial with the experiment's own values is complete, so what is gained is not known" in result.warnings


def test_files_of_a_front_that_is_no_more_go(tmp_path: Path) -> None:
    (tmp_path / "studies" / "quickstart").mkdir(parents=True)
    stale = tmp_path / "studies" / "quickstart" / "best-99.yaml"
    stale.write_text("old")
    result = study_of(objective=["loss", "sentiment/accuracy"], trials=2)
    assert not stale.exists()
    assert all(file.exists() for file in result.files.values())


def test_a_module_in_the_working_folder_does_not_reach_the_workers(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('this is not the standard library')\n")
    assert len(study_of(trials=2).trials) == 2


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


def test_a_study_does_not_go_on_in_another_mlflow_experiment(store_uri: str) -> None:
    tracked = f"tracking.uri={store_uri}"
    topwork.study(make_study(tracked, trials=1))
    with pytest.raises(ConfigurationError) as caught:
        topwork.study(make_study(tracked, "tracking.experiment=other", trials=2))
    assert str(caught.value) == (
        "study 'quickstart' was begun in the MLflow experiment 'quickstart', and tracking.experiment is now 'other'; "
        "change it back to go on, or set another study.name to begin anew"
    )


def test_a_study_is_no_run_to_compare(store_uri: str) -> None:
    topwork.study(make_study(f"tracking.uri={store_uri}", trials=2))
    with pytest.raises(ConfigurationError) as caught:
        compare(["quickstart", "quickstart-0"], uri=store_uri)
    assert str(caught.value) == "run quickstart is a study; compare its trials, quickstart-0 and so on"


def test_passwords_do_not_get_into_mlflow(store_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("data/", f"{QUICKSTART.parent}/data/")
    file.write_text(text + "# mlflow is at https://me:hush@example.org\n")
    result = topwork.study(load_experiment(file, settings(f"tracking.uri={store_uri}", trials=1)))
    content = MlflowClient(tracking_uri=store_uri).download_artifacts(str(result.run_id), "experiment.yaml")
    assert "# mlflow is at https://me:***@example.org" in Path(content).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epoch": "last"}, "study.epoch: last sets training.patience aside, so it cannot be searched"),
        ({"epoch": "best"}, "study.epoch: best needs training.patience in every trial, and here it is null"),
    ],
)
def test_a_patience_that_has_no_say_is_not_searched(section: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        study_of(search={"training.patience": {"choices": [2, None]}}, **section)
    assert str(caught.value).endswith(f"study.search.training.patience: None: {message}")


def test_a_trial_that_kills_its_workers_fails_and_the_study_goes_on(
    monkeypatch: pytest.MonkeyPatch, installed: Path, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    (plugins / "deadly-1.0.dist-info").mkdir(parents=True)
    (plugins / "deadly.py").write_text(DEADLY)
    (plugins / "deadly-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (plugins / "deadly-1.0.dist-info" / "entry_points.txt").write_text("[topwork]\ndeadly = deadly\n")
    monkeypatch.syspath_prepend(plugins)
    search = {"tasks.sentiment.head": {"choices": [{"kind": "binary"}, {"kind": "deadly"}]}}
    result = study_of(search=search, sampler="grid", trials=2, workers=1)
    assert [(trial.state, trial.reason) for trial in result.trials] == [
        ("complete", ""),
        ("failed", "its process died 3 times, perhaps for want of memory"),
    ]


def test_data_that_changes_during_a_study_is_noticed(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    lines = (QUICKSTART.parent / "data" / "synthetic_reviews.csv").read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:200]))

    class Meddler(StudyObserver):
        done = False

        def trials(self, finished: list[Trial], running: int, wanted: int) -> None:
            if running and not self.done:
                self.done = True
                rows.write_text("".join(lines[:190]))
                for child in psutil.Process().children():
                    child.kill()

    with pytest.raises(StudyError, match="the data has changed since the study began"):
        topwork.study(
            make_study(f"data.reviews.path={rows}", "data.reviews.limit=null", "tracking.enabled=false", epochs=200),
            observer=Meddler(),
        )


def test_hyperband_prunes_too() -> None:
    search = {"optimizer.heads_lr": {"choices": [1e-3, *(10.0**-power for power in range(4, 18))]}}
    result = study_of(
        search=search, objective="category/loss", sampler="grid", pruner="hyperband", trials=15, workers=1, epochs=9
    )
    assert len(result.trials) == 15
    assert "pruned" in [trial.state for trial in result.trials]
    assert result.best


def test_hopeless_trials_are_pruned_with_several_seeds_too() -> None:
    rates = [0.03, *(10.0**-power for power in range(7, 18))]
    result = study_of(
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
    result = study_of("training.store=require", search=search, sampler="grid", trials=2, workers=1)
    assert result.encoding_seconds > 0
    kept = list((Path(os.environ["TOPWORK_CACHE"]) / "activations").iterdir())
    assert len(kept) == 2
    again = study_of("training.store=require", search=search, sampler="random", trials=2, name="again")
    assert again.encoding_seconds == 0


def test_without_test_rows_nothing_is_said_of_other_texts() -> None:
    result = study_of("data.reviews.split={validation: 0.3, test: 0.0}", trials=2)
    assert result.judgements == {}
    assert "there are no test rows, so what the best values are worth on other texts is not known" in result.warnings


def test_after_the_timeout_no_trial_begins() -> None:
    result = study_of(trials=10000, timeout=8.0)
    assert 0 < len(result.trials) < 10000


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_samplers_that_learn_get_past_their_random_beginning(sampler: str) -> None:
    result = study_of(trials=13, sampler=sampler)
    assert [trial.state for trial in result.trials] == ["complete"] * 13


def test_values_that_do_not_fit_the_model_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        study_of(search={"freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.7.ffn"]]}}, trials=2)
    assert "study.search.freeze.patterns" in str(caught.value)
    assert "layer.7.ffn" in str(caught.value)
    assert not (tmp_path / "studies" / "quickstart" / "study.db").exists()


def test_an_experiment_without_a_study_section_cannot_be_studied() -> None:
    with pytest.raises(ConfigurationError, match="the experiment has no study section"):
        topwork.study(load_experiment(QUICKSTART, ["study=null"]))
