"""``topwork runs`` says what each run needs, ``resume`` goes on with it, and ``sync`` sends what waits."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from topwork.cli.show_runs import describe_progress, describe_run
from topwork.engine.observer import Observer
from topwork.files import holding
from topwork.lab.run_folder import RunFolder
from topwork.lab.run_record import RunRecord
from topwork.lab.tracking.write import Write

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
SETTINGS = ["data.reviews.limit=100", "training={epochs: 3, device: cpu}", "tracking.enabled=false"]
SMALL = [part for setting in SETTINGS for part in ("--set", setting)]


class Interrupting(Observer):
    """Presses Ctrl-C in the second step of the second epoch."""

    steps = 0

    def begin(self, phase: str, total: int) -> None:
        self.steps = 0 if phase == "epoch 2" else 10**6

    def advance(self, done: int) -> None:
        self.steps += done
        if self.steps == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def unfinished(heard: None) -> Path:
    """The folder of a run that was interrupted."""
    experiment = topwork.load_experiment(QUICKSTART, SETTINGS)
    with pytest.raises(KeyboardInterrupt) as caught:
        topwork.train(experiment, output="model", observer=Interrupting())
    assert caught.value.__notes__ == ["what is done is kept; go on with: topwork resume runs/model"]
    return Path("runs/model")


def run_at(path: Path, **changes: object) -> RunFolder:
    run = RunFolder(path, RunRecord(name="a-run", model="../../m", experiment={}))
    run.update(identity={"training.epochs": "9"}, **changes)
    return run


@pytest.mark.slow
def test_a_run_is_listed_and_resumed_as_the_list_says(command: Command, unfinished: Path) -> None:
    code, out, _ = command("runs")
    assert code == 0
    header, row = out.splitlines()
    assert header.split() == ["run", "state", "done", "begun", "next"]
    assert row.startswith("runs/model  unfinished  1 of 3 epochs and 3 steps  2")
    assert row.rstrip().endswith("topwork resume runs/model")
    code, out, err = command("resume", "runs/model")
    assert (code, err) == (0, "")
    assert "going on after 1 epoch and 3 steps of the next" in out
    assert "epoch   1" not in out
    assert "model: model" in out
    _, out, _ = command("runs", "--format", "json")
    (row,) = json.loads(out)
    assert (row["state"], row["done"]) == ("finished", "3 of 3 epochs")
    assert row["next"] == "topwork predict model 'a text'"
    code, _, err = command("resume", "runs/model")
    assert (code, err) == (2, "error: run runs/model is finished; its model is in model\n")


@pytest.mark.slow
def test_the_command_that_began_a_run_goes_on_with_it(command: Command, unfinished: Path) -> None:
    code, out, _ = command("train", QUICKSTART, *SMALL, "--output", "model")
    assert code == 0
    assert "going on after 1 epoch and 3 steps of the next" in out


@pytest.mark.slow
def test_what_has_changed_is_printed_without_a_traceback(command: Command, unfinished: Path) -> None:
    code, _, err = command("train", QUICKSTART, *SMALL, "--set", "training.batch_size=5", "--output", "model")
    assert code == 2
    assert err.splitlines() == [
        "error: this run was begun with other settings:",
        "error: training.batch_size: 20 then, 5 now",
        "error: change these back to go on, or give another --output to train anew",
    ]


@pytest.mark.slow
@pytest.mark.reliability("A5")
def test_checkpoints_that_cannot_be_read_have_an_exit_code_of_their_own(command: Command, unfinished: Path) -> None:
    for path in unfinished.rglob("state.json"):
        path.write_text("")
    code, _, err = command("resume", unfinished)
    assert code == 6
    assert "nothing was deleted; to train anew, remove runs/model" in err


@pytest.mark.reliability("A11")
def test_what_is_no_run_is_said(command: Command) -> None:
    code, _, err = command("resume", "runs/nothing")
    assert code == 5
    assert err == "error: runs/nothing is no run: it has no run.json; topwork runs shows those there are\n"
    code, _, err = command("sync", "runs/nothing")
    assert code == 5
    code, _, err = command("runs", "nowhere")
    assert (code, err) == (2, "error: nowhere is no folder\n")


def test_without_runs_that_is_said(command: Command) -> None:
    assert command("runs")[1] == "no runs in this folder, or in models\n"
    assert command("runs", ".")[1] == "no runs in .\n"


def test_states_say_what_to_do(tmp_path: Path) -> None:
    run = run_at(tmp_path / "runs" / "m")
    assert describe_run(run.path)["next"] == f"topwork resume {run.path}"
    assert describe_run(run.path)["done"] == "nothing"
    with holding(run.path, "trained"):
        row = describe_run(run.path)
        assert (row["state"], row["next"]) == ("running", "wait for it")
    run.training().unsent.add(Write(what="x"))
    assert describe_run(run.path)["next"] == (
        f"topwork resume {run.path}; 1 writes wait for MLflow: topwork sync {run.path}"
    )
    run.update(state="finished")
    assert describe_run(run.path)["next"].startswith(f"its model is gone from {tmp_path / 'm'}; 1 writes wait")
    run.update(state="failed", reason="it diverged\nbadly")
    assert describe_run(run.path)["next"].startswith("it diverged; ")
    (run.path / "run.json").write_text("{")
    row = describe_run(run.path)
    assert row["state"] == "damaged"
    assert "cannot be read" in row["next"]


def test_progress_names_trainings(tmp_path: Path) -> None:
    run = run_at(tmp_path / "runs" / "m", epochs={"seed-0": 9, "seed-1": 4})
    run.training("seed-2").checkpoints.save(3, 7, {})
    said = describe_progress(run.path, run.record)
    assert said == "9 of 9 epochs of seed-0, 4 of 9 epochs of seed-1, 2 of 9 epochs and 7 steps of seed-2"
    run.update(epochs={f"seed-{number}": 9 for number in range(5)})
    run.training("seed-2").remove()
    assert describe_progress(run.path, run.record) == "5 trainings"


def test_there_is_nothing_to_sync(command: Command, tmp_path: Path) -> None:
    run = run_at(tmp_path / "runs" / "m")
    assert command("sync", run.path)[1] == f"nothing of {run.path} waits to be sent\n"
