# python experiments/benchmarks/kills.py
"""Kill runs at random moments, let the same command finish them, and compare them with runs that nothing disturbed.

MiniLM on the synthetic reviews, with settings drawn by hypothesis: what trains, how tasks are joined, dropout, order,
precision, pieces, optimizer, stopping. Each run is begun with an empty activation store or with a full one, and killed
with SIGKILL up to six times, each time at a moment drawn from the time that it took undisturbed. Then the same command
finishes it. Its weights must be equal to the last bit, and its metrics of every epoch in MLflow too, each step there
once. Writes results/kills.json.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart.yaml"

#: In every run: rows, and checkpoints in nearly every step.
COMMON = ["data.reviews.limit=120", "tracking.log_model=false"]
TRAINING = {"device": "cpu", "epochs": 4, "checkpoint_minutes": 1e-6}

#: A moment at which a run needs nothing more.
AT_THE_END = "after the end of the run"

#: Metrics that tell how fast a process was, or what it found in the activation store.
OF_THE_PROCESS = ("texts_per_second/", "activations/")


def choices() -> st.SearchStrategy[dict[str, Any]]:
    """Settings that differ in all that has state."""
    trains = ["{kind: all_except, patterns: [layer.5.ffn]}", "{kind: all}", "{kind: gradual, start: 1, most: 2}"]
    losses = ["{kind: fixed}", "{kind: uncertainty}", "{kind: dynamic_average}", "{kind: torchjd, scalarizer: FAMO}"]
    gradients = ["{kind: torchjd, aggregator: PCGrad}", "{kind: torchjd, aggregator: ExcessMTL}"]

    def with_weighting(freeze: str) -> st.SearchStrategy[dict[str, Any]]:
        weightings = losses if freeze == trains[1] else losses + gradients
        return st.fixed_dictionaries(
            {
                "freeze": st.just(freeze),
                "weighting": st.sampled_from(weightings),
                "pooling": st.sampled_from(["{kind: cls}", "{kind: mean}"]),
                "tasks.category.head.dropout": st.sampled_from([0.0, 0.3]),
                "training": st.fixed_dictionaries(
                    {
                        **{name: st.just(value) for name, value in TRAINING.items()},
                        "seed": st.integers(0, 9),
                        "shuffle": st.booleans(),
                        "batch_size": st.sampled_from([16, 30]),
                        "accumulation": st.sampled_from([1, 2]),
                        "precision": st.sampled_from(["float32", "float32", "bfloat16"]),
                        "optimizer": st.sampled_from(["AdamW", "AdamW", "SGD", "Adafactor"]),
                        "schedule": st.sampled_from(["constant", "linear"]),
                        "stop": st.sampled_from(["together", "per_task"]),
                        "patience": st.just(2),
                    }
                ),
            }
        )

    return st.sampled_from(trains).flatmap(with_weighting)


class Commands:
    """Runs the command line again and again, in processes that are forked from one that has imported all of it.

    Args:
        environment: of all of them, beside that of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | dict(environment or {}),
        )

    def start(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *, kill_at: str = ""
    ) -> int:
        """Start a command in a folder, where it prints into ``printed.txt``; return its process number.

        Args:
            kill_at: where it ends itself with SIGKILL: a moment that ``topwork.files.reach`` names, a pattern for the
                path, and how many times it comes there, with ``|`` between them.
        """
        job = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        assert self._server.stdin is not None
        self._server.stdin.write(f"{json.dumps({**job, 'kill_at': kill_at})}\n")
        self._server.stdin.flush()
        return self._read()

    def wait(self) -> int:
        """Wait for the end of what was started last; return its exit code, or minus the signal that ended it."""
        return self._read()

    def run(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *, kill_at: str = "") -> int:
        """Start a command, and wait for its end."""
        self.start(arguments, folder, environment, kill_at=kill_at)
        return self.wait()

    def close(self) -> None:
        """End the process that the others are forked from."""
        self._server.communicate()

    def _read(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def serve() -> None:
    """Import what the command line needs, then fork a process for each job that standard input brings."""
    import torch

    import topwork.cli.show_training
    import topwork.lab.figures
    import topwork.lab.study.figures  # noqa: F401  (and with it what figures need)

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        if not (pid := os.fork()):
            _carry_out(job)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _carry_out(job: Mapping[str, Any]) -> None:
    """Run a command in this process, and end it."""
    from topwork.cli import main as run_command

    code = 1
    try:
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        printed = os.open("printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(printed, stream)
        if job["kill_at"]:
            _kill_when_reached(*job["kill_at"].split("|"))
        sys.argv = ["topwork", *job["arguments"]]
        run_command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _kill_when_reached(point: str, ending: str, times: str) -> None:
    """Let this process end itself where it comes to a named moment so many times."""
    left = int(times)

    def look(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "topwork.reached" and details[0] == point and fnmatch(details[1], ending):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        weights: the bytes of its model's weights.
        history: of each metric in MLflow, by step; values only of what is no matter of speed.
        parameters, status, artifacts: of its MLflow run.
    """

    weights: bytes
    history: dict[str, list[tuple[int, str]]]
    parameters: dict[str, str]
    status: str
    artifacts: list[str]


def outcome_of(folder: Path) -> Outcome:
    """Read what a run left in a folder; there must be one run in MLflow, and nothing unfinished beside the model."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    begun = [run for run in client.search_runs(experiments) if run.data.metrics or run.info.status == "FINISHED"]
    (run,) = begun
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    kept = [str(path.relative_to(folder)) for path in (folder / "runs").rglob("*") if path.is_file()]
    assert kept == ["runs/model/run.json"], kept
    files = [one.path for one in client.list_artifacts(run.info.run_id)]
    return Outcome(
        weights=(folder / "model" / "weights.safetensors").read_bytes(),
        history={
            name: [(one.step, "" if name.startswith(OF_THE_PROCESS) else repr(one.value)) for one in history]
            for name, history in histories.items()
            if not name.startswith((OF_THE_PROCESS[1], "texts_per_second/encoding"))
        },
        parameters={name: value for name, value in run.data.params.items() if not name.startswith("data.")},
        status=run.info.status,
        artifacts=files,
    )


def arguments_of(drawn: Mapping[str, Any], common: Sequence[str]) -> list[str]:
    """The command that trains with what was drawn."""
    given = [*common, *(f"{name}={as_yaml(value)}" for name, value in drawn.items())]
    return ["train", str(QUICKSTART), "--output", "model", *(part for one in given for part in ("--set", one))]


def as_yaml(value: object) -> str:
    """A value as ``--set`` takes it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


@dataclass
class Tally:
    """What was tried."""

    runs: int = 0
    kills: int = 0
    starts: int = 0
    found: Counter[str] = field(default_factory=Counter)


def kill_and_compare(
    commands: Commands,
    drawn: Mapping[str, Any],
    draw: random.Random,
    tally: Tally,
    *,
    warm: bool,
    kills: int,
    common: Sequence[str] = COMMON,
    database: Path | None = None,
) -> None:
    """Train twice, once undisturbed and once killed again and again, and check that both left the same.

    Args:
        warm: whether the activation store has everything before the run that is killed begins.
        kills: how many times it is killed at most; a run may be too quick for that.
        database: an MLflow store without runs, of which each folder gets a copy; made by the run where there is none.
    """
    arguments = arguments_of(drawn, common)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for one in ("undisturbed", "killed"):
            (root / one).mkdir()
            if database:
                shutil.copy(database, root / one / "mlflow.db")
        started = time.monotonic()
        commands.start(arguments, root / "undisturbed", {"TOPWORK_CACHE": str(root / "cache")})
        assert commands.wait() == 0, (root / "undisturbed" / "printed.txt").read_text()
        seconds = time.monotonic() - started
        cache = root / "cache" if warm else root / "empty"
        killed = root / "killed"
        at_the_end = False
        for _ in range(kills):
            pid = commands.start(arguments, killed, {"TOPWORK_CACHE": str(cache)})
            tally.starts += 1
            time.sleep(draw.uniform(0.0, 1.1 * seconds))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            code = commands.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL, (killed / "printed.txt").read_text()
            tally.kills += 1
            tally.found[moment_of(killed)] += 1
            if at_the_end := moment_of(killed) == AT_THE_END:
                break
        if code != 0:
            commands.start(arguments, killed, {"TOPWORK_CACHE": str(cache)})
            code = commands.wait()
            tally.starts += 1
        if at_the_end:  # then there is nothing to do, and the command says so
            assert "model exists already" in (killed / "printed.txt").read_text()
        else:
            assert code == 0, (killed / "printed.txt").read_text()
        assert_equal(outcome_of(root / "undisturbed"), outcome_of(killed))
        tally.runs += 1


def create_database(file: Path) -> None:
    """Create an MLflow store without runs."""
    from topwork.lab.tracking.database import create_mlflow_database

    create_mlflow_database(file)


def moment_of(folder: Path) -> str:
    """Say what a killed run had done."""
    if not (folder / "runs" / "model" / "run.json").exists():
        return "before the run was noted"
    if json.loads((folder / "runs" / "model" / "run.json").read_text())["state"] == "finished":
        return AT_THE_END
    if (folder / "model").exists():
        return "after the model was written"
    if list((folder / "runs" / "model" / "checkpoints").glob(".*")):
        return "while a checkpoint was written"
    kept = sorted((folder / "runs" / "model" / "checkpoints").glob("*-*"))
    if not kept:
        return "before the first checkpoint"
    return "between two epochs" if kept[-1].name.endswith("-000000000") else "within an epoch"


def assert_equal(undisturbed: Outcome, killed: Outcome) -> None:
    """Check that two runs left the same."""
    assert undisturbed.weights == killed.weights, "the weights differ"
    for name, history in undisturbed.history.items():
        assert sorted(killed.history.get(name, [])) == sorted(history), f"{name}: {history}, {killed.history.get(name)}"
    assert killed.history.keys() == undisturbed.history.keys()
    assert killed.parameters == undisturbed.parameters
    assert (killed.status, killed.artifacts) == (undisturbed.status, undisturbed.artifacts)


def kill_until(kills: int, number: int) -> Tally:
    """Kill so many times at least, and more until the run is finished.

    Args:
        number: of the process, which draws other settings and moments than others.
    """
    commands, draw, tally = Commands(), random.Random(number), Tally()
    with tempfile.TemporaryDirectory() as temporary:
        database = Path(temporary) / "mlflow.db"
        create_database(database)

        @seed(number)
        @settings(
            max_examples=100_000,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=HealthCheck,
        )
        @given(drawn=choices())
        def kill(drawn: dict[str, Any]) -> None:
            if tally.kills >= kills:
                raise EnoughError
            made = (
                None if tally.runs % 5 == 0 else database
            )  # making the store takes seconds in which nothing is trained
            kill_and_compare(commands, drawn, draw, tally, warm=tally.runs % 2 == 1, kills=6, database=made)
            print(f"process {number}: {tally.kills} kills, {tally.runs} runs", file=sys.stderr, flush=True)

        with suppress(EnoughError):
            kill()
    commands.close()
    return tally


class EnoughError(BaseException):
    """There were as many kills as were asked for."""


def main() -> None:
    """Kill until there were enough, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many at least, all processes together")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time")
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given_arguments = parser.parse_args()
    if given_arguments.serve:
        serve()
        return
    if given_arguments.number is not None:
        print(json.dumps(vars(kill_until(given_arguments.kills, given_arguments.number))))
        return
    started, count = time.monotonic(), given_arguments.processes
    command = [sys.executable, __file__, "--kills", str(-(-given_arguments.kills // count)), "--number"]
    processes = [subprocess.Popen([*command, str(one)], stdout=subprocess.PIPE, text=True) for one in range(count)]
    tallies = [json.loads(process.communicate()[0]) for process in processes]
    found = {
        "kills": sum(one["kills"] for one in tallies),
        "runs that were finished and equal": sum(one["runs"] for one in tallies),
        "starts": sum(one["starts"] for one in tallies),
        "seconds": round(time.monotonic() - started),
        "killed": dict(sorted(sum((Counter(one["found"]) for one in tallies), Counter[str]()).items())),
    }
    (HERE / "results" / "kills.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
