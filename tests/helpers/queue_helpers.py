"""Search sections without an experiment, and trials that are finished without training.

As a script, this is one of several processes that finish the trials of a study.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from topwork.experiment.search import SearchedSetting
from topwork.experiment.study import Dimension, StudySettings
from topwork.lab.study.storage import close, open_storage
from topwork.lab.study.trial_queue import TrialQueue, join_trial_queue
from topwork.lab.study.trial_states import PROCESS
from waiting import PATIENCE

#: Opens the same queue, anew each time.
OpenQueue = Callable[..., TrialQueue]

RATES = {"heads_lr": Dimension(low=1e-4, high=1e-2, log=True), "backbone_lr": Dimension(low=1e-6, high=1e-3, log=True)}
BASELINE = {"heads_lr": 1e-3, "backbone_lr": 5e-5}

#: Six points.
GRID = {"depth": Dimension(low=0, high=4, step=2), "pooling": Dimension(choices=["cls", "mean"])}
GRID_BASELINE = {"depth": 2, "pooling": "mean"}


@cache
def empty_database() -> bytes:
    """A database without a study; creating one takes longer than writing these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        close(open_storage(f"sqlite:///{file}"))
        return file.read_bytes()


def settings(**changed: Any) -> StudySettings:
    """A study section."""
    search = {f"x.{name}": dimension for name, dimension in RATES.items()}
    return StudySettings(**{"search": search, "objective": "loss", "trials": 5, "sampler": "random"} | changed)


def searched(dimensions: Mapping[str, Dimension], baseline: Mapping[str, Any]) -> list[SearchedSetting]:
    """What a study section with these dimensions searches."""
    integer = {name for name, dimension in dimensions.items() if isinstance(dimension.low, int)}
    return [
        SearchedSetting(f"x.{name}", name, one, name in integer, baseline[name]) for name, one in dimensions.items()
    ]


def finish_all(queue: TrialQueue) -> list[dict[str, Any]]:
    """Finish what there is to do, and return the values that were trained."""
    done = []
    while (trial := queue.ask()) is not None:
        done.append(trial.params)
        queue.complete(trial, [1.0 + trial.number])
    return done


def die(trial: optuna.Trial) -> None:
    """Make the trial's process one that is gone."""
    host, _, *rest = trial.user_attrs[PROCESS].split(":")
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    trial.set_user_attr(PROCESS, ":".join([host, str(gone.pid), *rest]))


def by_number(queue: TrialQueue, number: int) -> FrozenTrial:
    """One trial as the storage has it."""
    return next(trial for trial in queue.trials() if trial.number == number)


def finish_in_processes(url: str, sampler: str, trials: int, *, processes: int) -> None:
    """Let several processes finish the trials of a study that was opened; each has one at least."""
    command = [sys.executable, __file__, url, sampler, str(trials)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as at_the_end:
        started = [at_the_end.enter_context(subprocess.Popen(command, **pipes)) for _ in range(processes)]
        for process in started:
            at_the_end.callback(process.kill)
        assert [process.stdout.readline() for process in started if process.stdout] == ["asked\n"] * processes
        for process in started:
            assert process.stdin
            process.stdin.close()
        assert [process.wait(PATIENCE) for process in started] == [0] * processes


def main(url: str, sampler: str, trials: str) -> None:
    """Ask for a trial, wait for the end of the standard input, and finish it and whatever is left."""
    dimensions, baseline = (GRID, GRID_BASELINE) if sampler == "grid" else (RATES, BASELINE)
    section = settings(
        search={f"x.{name}": one for name, one in dimensions.items()}, trials=int(trials), sampler=sampler
    )
    queue = join_trial_queue(open_storage(url), "pair", section, searched(dimensions, baseline), epochs=1)
    trial = queue.ask()
    assert trial is not None
    sys.stdout.write("asked\n")
    sys.stdout.flush()
    sys.stdin.read()
    queue.complete(trial, [1.0])
    finish_all(queue)


if __name__ == "__main__":
    main(*sys.argv[1:])
