"""The best is the best, and the first of equals; and it is measured on rows that had no part in choosing it."""

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from study_helpers import begun, make_study, resolve_small, work
from topwork.data.dataset import DataSplit
from topwork.experiment.loading import load_experiment
from topwork.lab.runs import train
from topwork.lab.study.report import (
    changes_of,
    evaluate_trials,
    find_baseline,
    find_best,
    rank,
    summarize,
    write_experiment,
)
from topwork.lab.study.result import State, TrialEvaluation, TrialSummary
from topwork.lab.study.study_run import StudyRun
from topwork.lab.study.trial_states import REASON
from topwork.lab.tracking.store import TrackingStore, flatten

VALUES = st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)), min_size=1, max_size=12)


def trial(number: int, *values: float, state: State = "complete") -> TrialSummary:
    return TrialSummary(number, state, {"x": number}, values)


@pytest.mark.parametrize(
    ("values", "maximize", "best"),
    [([0.5, 0.7, 0.6], True, 1), ([0.5, 0.7, 0.6], False, 0), ([0.5, 0.7, 0.7], True, 1)],
)
def test_the_best_trial_is_the_first_with_the_best_value(values: list[float], maximize: bool, best: int) -> None:
    assert find_best([trial(number, value) for number, value in enumerate(values)], [maximize]) == [best]


def test_the_dust_of_float32_decides_nothing() -> None:
    assert find_best([trial(0, 0.4437499940395355), trial(1, 0.44375)], [True]) == [0]
    assert find_best([trial(0, 0.44374), trial(1, 0.44375)], [True]) == [1]


def test_trials_with_the_same_settings_are_not_listed_as_several_best_ones() -> None:
    again = TrialSummary(1, "complete", {"x": 0}, (0.5, 0.5))
    assert find_best([trial(0, 0.5, 0.5), again, trial(2, 0.5, 0.5)], [True, True]) == [0, 2]


def test_a_trial_that_was_pruned_or_failed_is_never_the_best() -> None:
    trials = [trial(0, 0.9, state="pruned"), trial(1, state="failed"), trial(2, 0.1)]
    assert find_best(trials, [True]) == [2]
    assert [one.number for one in rank(trials, [True])] == [2, 0, 1]
    assert find_best(trials[:2], [True]) == []


@given(VALUES)
def test_the_front_is_what_nothing_beats_in_all_respects(values: list[tuple[float, float]]) -> None:
    trials: list[Any] = [trial(number, *pair) for number, pair in enumerate(values)]
    front = find_best(trials, [True, False])
    for number, (high, low) in enumerate(values):
        beaten = any(up >= high and down <= low and (up, down) != (high, low) for up, down in values)
        assert (number in front) == (not beaten)
    assert {one.number for one in rank(trials, [True, False])[: len(front)]} == set(front)


def test_trials_are_summarized_with_state_reason_and_time() -> None:
    stored = [
        create_trial(values=[0.5], user_attrs={"training_seconds": 2.5}),
        create_trial(state=TrialState.FAIL, user_attrs={REASON: "it diverged"}),
        create_trial(state=TrialState.PRUNED, value=0.25),
    ]
    for number, one in enumerate(stored):
        one.number = number
    assert summarize(stored) == [
        TrialSummary(0, "complete", {}, (0.5,), training_seconds=2.5),
        TrialSummary(1, "failed", {}, (), "it diverged"),
        TrialSummary(2, "pruned", {}, (0.25,)),
    ]


def test_the_baseline_is_the_complete_trial_with_the_experiments_own_values() -> None:
    search = resolve_small().search
    own, other = {"heads_lr": 1e-3, "backbone_lr": 5e-5}, {"heads_lr": 1e-2, "backbone_lr": 5e-5}
    trials = [
        TrialSummary(0, "failed", own, ()),
        TrialSummary(1, "complete", other, (1.0,)),
        TrialSummary(2, "complete", own, (1.0,)),
    ]
    assert find_baseline(trials, search) == 2
    assert find_baseline(trials[:2], search) is None


def test_a_best_experiment_differs_in_what_is_said_alone(tmp_path: Path) -> None:
    study = resolve_small(seeds=[5, 6], epoch="last")
    best = TrialSummary(3, "complete", {"heads_lr": 0.02, "backbone_lr": 5e-5}, (0.5,))
    changes = changes_of(best, study)
    assert changes == {
        "optimizer.heads_lr": (1e-3, 0.02),
        "training.seed": (0, 5),
        "training.patience": (2, None),
    }
    file = tmp_path / "best.yaml"
    write_experiment(file, best, study)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# topwork train {file}"
    assert lines[2] == "# Trial 3 of study quickstart, evaluated by its mean over seeds 5, 6; this is the first."
    before, after = flatten(make_study().dump()), flatten(load_experiment(file).dump())
    assert {path for path in before if before[path] != after[path]} == set(changes)


@dataclass(frozen=True)
class Studied:
    """A study of two heads, and the trials that were trained with each."""

    folder: Path
    run: StudyRun
    trials: list[TrialSummary]

    @property
    def store(self) -> TrackingStore:
        assert self.run.log is not None
        return self.run.log.store

    @property
    def rows(self) -> DataSplit:
        return self.run.plan.baseline.dataset.splits["test"]

    def evaluate(self, store: TrackingStore | None) -> tuple[dict[int, TrialEvaluation], list[str]]:
        """Measure both trials with what is kept of them in this folder, and in a store."""
        return evaluate_trials(self.trials, 0, self.run.study, self.run.queue, self.rows, store)


@pytest.fixture(scope="module")
def studied(installed: Path, _migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    folder = tmp_path_factory.mktemp("studied")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    search = {"tasks.sentiment.head.kind": {"choices": ["binary", "classification"]}}
    study = make_study(
        f"tracking.uri=sqlite:///{folder}/mlflow.db", search=search, objective="loss", sampler="grid", epochs=8
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOPWORK_CACHE", str(folder / "cache"))
        with begun(study) as run:
            trials = work(run)
            yield Studied(folder, run, trials)


@pytest.fixture
def kept(studied: Studied, tmp_path: Path) -> Path:
    """The folder with the trials' outputs, copied into this test's own."""
    shutil.copytree(studied.folder / "studies", tmp_path / "studies")
    return studied.run.study.folder / "trials" / studied.run.queue.id


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_each_trial_is_measured_by_its_own_head_as_training_measures_it(studied: Studied, tmp_path: Path) -> None:
    evaluations, warnings = studied.evaluate(None)
    assert warnings == []
    for number, kind in enumerate(["binary", "classification"]):
        experiment = make_study("tracking.enabled=false", f"tasks.sentiment.head.kind={kind}", epochs=8)
        assert train(experiment, output=tmp_path / kind).estimates == evaluations[number].estimates


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_the_gain_is_the_difference_from_the_baseline(studied: Studied) -> None:
    evaluations, _ = studied.evaluate(None)
    baseline, other = evaluations[0], evaluations[1]
    assert baseline.differences == {}
    assert other.differences.keys() == other.estimates.keys() == baseline.estimates.keys()
    for name, gain in other.differences.items():
        assert gain.value == pytest.approx(other.estimates[name].value - baseline.estimates[name].value, abs=1e-6)
        assert gain.low <= gain.value <= gain.high


@pytest.mark.slow
def test_outputs_that_are_not_here_come_from_mlflow(studied: Studied, kept: Path) -> None:
    expected = studied.evaluate(None)
    (kept / "0.safetensors").unlink()
    assert studied.evaluate(studied.store) == expected
    evaluations, warnings = studied.evaluate(None)
    assert list(evaluations) == [1]
    assert evaluations[1].differences == {}
    assert warnings == [
        f"the outputs of trial 0 on the test rows are neither in {kept} nor in MLflow; another machine may have "
        "trained it"
    ]


@pytest.mark.slow
def test_damaged_outputs_come_from_mlflow_and_else_are_left_out(studied: Studied, kept: Path) -> None:
    whole, _ = studied.evaluate(None)
    file = kept / "0.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    evaluations, (warning,) = studied.evaluate(studied.store)
    assert evaluations == whole
    assert warning.startswith(f"the outputs of trial 0 on the test rows cannot be read: {file} is damaged: ")
    assert warning.endswith("; MLflow's copy is used")
    evaluations, (warning,) = studied.evaluate(None)
    assert list(evaluations) == [1]
    assert warning.startswith(f"the outputs of trial 0 on the test rows cannot be read: {file} is damaged: ")
    assert "MLflow" not in warning


@pytest.mark.usefixtures("kept")
def test_outputs_of_other_test_rows_are_left_out(studied: Studied) -> None:
    rows = dataclasses.replace(studied.rows, texts=["another text", *studied.rows.texts[1:]])
    evaluations, warnings = evaluate_trials(studied.trials, 0, studied.run.study, studied.run.queue, rows, None)
    assert evaluations == {}
    assert warnings == [f"the outputs of trial {number} are of other test rows and are left out" for number in (0, 1)]


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_outputs_of_another_study_of_the_name_are_never_taken(studied: Studied, tmp_path: Path) -> None:
    with begun(make_study("tracking.enabled=false", storage=f"sqlite:///{tmp_path / 'other.db'}")) as other:
        evaluations, warnings = evaluate_trials(studied.trials, 0, other.study, other.queue, studied.rows, None)
    assert evaluations == {}
    assert len(warnings) == 2
