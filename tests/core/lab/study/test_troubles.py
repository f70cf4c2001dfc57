"""Studies that meet trouble: trials that fail, files that are damaged, settings that do not fit, interruptions."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import topwork
from small_experiment import QUICKSTART
from study_helpers import make_study, run_study, runs_of, trials_of
from topwork.errors import ConfigurationError, StorageError, StudyError
from topwork.experiment.loading import load_experiment
from topwork.lab.comparison import compare
from topwork.lab.study.ledger import FAILURES
from topwork.lab.study.result import StudyObserver, Trial
from topwork.lab.tracking.study_log import StudyLog

pytestmark = pytest.mark.slow

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


def test_trials_that_fail_have_a_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    search = {"optimizer.heads_lr": {"choices": [1e-3, 1e30, 1e-2]}, "training.accumulation": {"choices": [1, 16]}}
    search["training.batch_size"] = {"choices": [16, 8]}
    result = run_study(search=search, sampler="grid", trials=12, workers=1)
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
        run_study(search={"optimizer.heads_lr": {"choices": rates}}, sampler="grid", trials=11, workers=1)
    assert str(caught.value).startswith(
        f"study quickstart ended after {FAILURES} failed trials in a row; the last one: "
    )
    assert "training diverged in epoch 1" in str(caught.value)
    trials = trials_of(f"sqlite:///{Path('studies/quickstart/study.db').resolve()}")
    assert len(trials) == FAILURES + 1


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


def test_where_the_own_values_fail_it_is_said_that_the_gain_is_not_known() -> None:
    result = run_study("optimizer.heads_lr=1e30", search={"optimizer.heads_lr": {"choices": [1e30, 1e-3]}}, trials=2)
    assert result.own is None
    assert "no trial with the experiment's own values is complete, so what is gained is not known" in result.warnings


def test_a_module_in_the_working_folder_does_not_reach_the_workers(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('this is not the standard library')\n")
    assert len(run_study(trials=2).trials) == 2


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


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epoch": "last"}, "study.epoch: last sets training.patience aside, so it cannot be searched"),
        ({"epoch": "best"}, "study.epoch: best needs training.patience in every trial, and here it is null"),
    ],
)
def test_a_patience_that_has_no_say_is_not_searched(section: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run_study(search={"training.patience": {"choices": [2, None]}}, **section)
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
    result = run_study(search=search, sampler="grid", trials=2, workers=1)
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


def test_values_that_do_not_fit_the_model_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run_study(search={"freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.7.ffn"]]}}, trials=2)
    assert "study.search.freeze.patterns" in str(caught.value)
    assert "layer.7.ffn" in str(caught.value)
    assert not (tmp_path / "studies" / "quickstart" / "study.db").exists()


def test_a_storage_that_is_no_url_is_told_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"study.storage <not a URL> cannot be used: "):
        run_study(storage="study.db")
    assert not list(tmp_path.iterdir())


def test_an_experiment_without_a_study_section_cannot_be_studied() -> None:
    with pytest.raises(ConfigurationError, match="the experiment has no study section"):
        topwork.study(load_experiment(QUICKSTART, ["study=null"]))
