"""``topwork study`` and ``topwork ui`` as a researcher sees them."""

import io
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from small_experiment import QUICKSTART
from study_helpers import Command, running_after, runs_of, settings, trained_here, wait_for
from topwork.cli import main
from topwork.cli.show_study import show_evaluation
from topwork.cli.show_training import describe_power
from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.study.result import StudyResult, TrialEvaluation
from topwork.lab.tracking.server import find_newest
from topwork.lab.tracking.store import STUDY_TAG

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("installed")]

Run = Callable[..., tuple[int, str, str]]

#: Escape sequences of a terminal.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def options(*more: str, **study: object) -> list[str]:
    """The arguments of a small study."""
    return [part for setting in settings(*more, **study) for part in ("--set", setting)]


@dataclass(frozen=True)
class Studied:
    """A small study that the command carried out: its folder, its store, and what was printed."""

    folder: Path
    store_uri: str
    lines: list[str]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, _migrated_store: Path, installed: Path) -> Studied:
    folder = tmp_path_factory.mktemp("studied")
    uri = f"sqlite:///{shutil.copy(_migrated_store, folder / 'mlflow.db')}"
    arguments = ["topwork", "study", str(QUICKSTART), *options(f"tracking.uri={uri}", trials=5)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed, trained_here():
        patch.chdir(folder)
        patch.setenv("TOPWORK_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as leaving:
            main()
    assert not leaving.value.code, printed.getvalue()
    return Studied(folder, uri, printed.getvalue().splitlines())


def test_a_study_tells_what_it_searches_what_happens_and_what_it_found(studied: Studied) -> None:
    lines = studied.lines
    (searched,) = [line for line in lines if line.startswith("optimizer.heads_lr") and "logarithmic" in line]
    assert re.match(r"optimizer\.heads_lr +0\.0001 to 0\.1, logarithmic +0\.001", searched)
    assert "objective: mean(sentiment/accuracy, category/accuracy)" in lines
    assert "5 trials of at most 2 epochs, 2 workers, sampler tpe, pruner none" in lines
    assert len([line for line in lines if re.match(r"trial \d: heads_lr ", line)]) == 5
    assert any(re.match(r"study quickstart: 5 trials complete, 0 pruned, 0 failed, in ", line) for line in lines)
    table = lines[lines.index("best trials") + 1 :]
    assert table[0].split() == ["trial", "heads_lr", "backbone_lr", "mean(sentiment/accuracy,", "category/accuracy)"]
    baseline = next(line for line in table if line.endswith("baseline"))
    assert baseline.split()[:3] == ["0", "0.001", "5e-05"]
    assert f"  topwork train {studied.folder}/studies/quickstart/best.yaml" in lines
    if "the experiment's own values are the best" not in lines:
        assert any(re.match(r"optimizer\.(heads|backbone)_lr +[\de.-]+ +[\de.-]+", line) for line in table)
        assert any(re.match(r"sentiment/accuracy .* to .* [+-]0\.\d+", line) for line in table)


def test_the_best_values_are_an_experiment_to_train(command: Run, studied: Studied) -> None:
    best = studied.folder / "studies" / "quickstart" / "best.yaml"
    code, out, err = command("train", best, "--set", "tracking.enabled=false")
    assert code == 0, err
    assert "test rows, weights of epoch" in out


def test_failed_trials_are_counted_with_their_reason_and_end_the_study(command: Run) -> None:
    rates = [1e-3, *(10.0**power for power in range(30, 38))]
    search = {"optimizer.heads_lr": {"choices": rates}}
    with trained_here():
        code, out, err = command(
            "study", QUICKSTART, *options("tracking.enabled=false", search=search, sampler="grid", trials=9)
        )
    assert code == 1
    assert "study quickstart: 1 trials complete, 0 pruned, 5 failed" in out
    assert re.search(r"failed, trial \d.*: training diverged in epoch 1, step ", out)
    assert err.startswith("error: study quickstart ended after 5 failed trials in a row; the last one: trial ")
    assert "error: fix that, then run the same command to resume" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": {"optimizer.head_lr": {"low": 1, "high": 2}}},
            "optimizer.head_lr: unknown key; did you mean heads_lr?",
        ),
        ({"objective": "sentiment/acc"}, "there is no metric 'sentiment/acc', only "),
        ({"trails": 3}, "study.trails: unknown key; did you mean trials?"),
    ],
)
def test_a_typo_costs_nothing(command: Run, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    code, _, err = command("study", QUICKSTART, *options("tracking.enabled=false", **changes))
    assert code == 2
    assert message in err
    assert not list(tmp_path.rglob("study.db"))


def test_an_experiment_without_a_study_says_how_to_write_one(command: Run) -> None:
    code, _, err = command("study", QUICKSTART, "--set", "study=null")
    assert code == 2
    assert "the experiment has no study section; add one, such as" in err


def test_an_interrupted_study_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    running = Command(folder, settings("tracking.enabled=false", epochs=100, trials=50, workers=1))
    url = f"sqlite:///{folder / 'studies' / 'quickstart' / 'study.db'}"
    wait_for(lambda: running_after(url, finished=0))
    running.process.terminate()
    printed = running.finish(code=143)
    assert printed.splitlines()[-1] == "interrupted; run the same command to resume"


def test_a_terminal_shows_the_best_trials_and_a_bar(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    arguments = [sys.executable, "-m", "topwork.cli", "study", str(QUICKSTART)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*arguments, *options("tracking.enabled=false", trials=4, workers=1)],
        stdout=child,
        stderr=child,
        env=environment,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert process.wait() == 0
    text = ESCAPES.sub("", shown.decode())
    assert re.search(r"\d running, 0 pruned, 0 failed; trials .* [0-4]/4", text)
    assert "heads_lr" in text
    assert not re.search(r"trial \d: heads_lr", text)  # those lines are for logs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_ui_serves_the_store_and_links_to_the_comparison(command: Run, tmp_path: Path, studied: Studied) -> None:
    store_uri, port = studied.store_uri, free_port()
    printed = tmp_path / "ui.txt"
    with printed.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "topwork.cli", "ui", "--uri", store_uri, "--port", str(port)], stdout=out
        )
    try:
        wait_for(lambda: "Ctrl-C ends it" in printed.read_text())
        lines = printed.read_text().splitlines()
        assert lines[0] == f"{store_uri} is served at http://127.0.0.1:{port}"
        assert lines[1] == "the trials of study quickstart:"
        _, children = runs_of(store_uri)
        linked = json.loads(unquote(lines[2].split("runs=")[1].split("&")[0]))
        assert set(linked) == {run.info.run_id for run in children}
        assert b"<html" in urlopen(f"http://127.0.0.1:{port}/").read()
        code, _, err = command("ui", "--uri", store_uri, "--port", port)
        assert code == 2
        assert err == f"error: port {port} cannot be used: Address already in use; choose another with --port\n"
    finally:
        process.terminate()
        process.wait()
    wait_for(lambda: not answers(port))  # the server goes with the command


def test_a_study_without_trials_is_shown_in_the_list(store_uri: str) -> None:
    client = MlflowClient(tracking_uri=store_uri)
    run = client.create_run("0", run_name="fresh", tags={STUDY_TAG: "fresh"})
    what, link = find_newest(store_uri)
    assert what == "study fresh, which has no trials yet"
    assert link == f"#/experiments/{run.info.experiment_id}/runs"


def test_the_ui_of_a_store_that_is_not_there_creates_none(command: Run, tmp_path: Path) -> None:
    code, _, err = command("ui")
    assert code == 5
    assert err == (
        f"error: there is no MLflow store {tmp_path}/mlflow.db; name one with --uri, or set MLFLOW_TRACKING_URI\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_metric_that_only_the_best_trials_head_has_is_shown_without_a_gain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 100)
    gains = {"a/accuracy": Difference(0.0, -0.1, 0.1, 1.0)}
    result = StudyResult(
        name="heads", folder=Path(), storage="", objectives=("loss",), maximize=(False,), trials=[], baseline=0,
        best=[1],
        changes={}, files={}, run_id=None, tracking_uri=None, seconds=0.0, encoding_seconds=0.0, warnings=[],
        evaluations={
            0: TrialEvaluation({"a/accuracy": estimate}),
            1: TrialEvaluation({"a/accuracy": estimate, "a/recall": estimate}, gains),
        },
    )  # fmt: skip
    show_evaluation(result, 1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a/recall", "0.500", "(0.400", "to", "0.600)"] in rows
    assert any(row[:1] == ["a/accuracy"] and row[-1] == "1.000" for row in rows)


def test_what_few_seeds_cannot_show_is_said_of_a_study_too(capsys: pytest.CaptureFixture[str]) -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 100, seeds=3, sd=0.02)
    result = StudyResult(
        name="heads", folder=Path(), storage="", objectives=("loss",), maximize=(False,), trials=[], baseline=0,
        best=[1],
        changes={}, files={}, run_id=None, tracking_uri=None, seconds=0.0, encoding_seconds=0.0, warnings=[],
        evaluations=dict.fromkeys((0, 1), TrialEvaluation({"a/accuracy": estimate})),
    )  # fmt: skip
    show_evaluation(result, 1)
    printed = capsys.readouterr().out.splitlines()
    assert "0.500 (0.400 to 0.600), sd 0.020" in printed[3]
    assert printed[-1] == describe_power(3)


def test_a_finished_study_is_printed_for_programs_too(
    studied: Studied, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied.folder)
    monkeypatch.setenv("TOPWORK_CACHE", str(studied.folder / "cache"))
    arguments = ["study", QUICKSTART, *options(f"tracking.uri={studied.store_uri}", trials=5)]
    with trained_here():
        code, out, _ = command(*arguments, "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert len({trial["heads_lr"] for trial in found["trials"]}) == 5
    assert {trial["state"] for trial in found["trials"]} == {"complete"}
    (best,) = found["best"]
    assert {row["metric"] for row in found["test"][str(best)]} == {"accuracy", "macro_f1", "matthews"}
    assert Path(found["files"][str(best)]).exists()
