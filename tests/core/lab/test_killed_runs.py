"""A run that is killed at whatever moment is finished by the same command as if nothing had been."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import kills
import pytest
from kills import Commands, Tally, kill_and_compare

from small_experiment import QUICKSTART, TINY
from topwork.files import FAULT_POINTS

#: How many runs are killed at random moments here; experiments/benchmarks/kills.py kills many more.
RANDOM_RUNS = 3


@pytest.fixture(scope="module")
def commands(installed: Path) -> Iterator[Commands]:
    commands = Commands({"PYTHONPATH": os.pathsep.join([str(installed), *sys.path])})
    yield commands
    commands.close()


UNTRACKED = [*TINY, "tracking.enabled=false", "training={epochs: 3, batch_size: 16, device: cpu, shuffle: true}"]


def train(commands: Commands, folder: Path, *, kill_at: str = "") -> int:
    folder.mkdir(exist_ok=True)
    given = [*UNTRACKED, "training.checkpoint_minutes=0.000001", "tasks.sentiment.head.dropout=0.2"]
    arguments = ["train", str(QUICKSTART), "--output", "model", *(part for one in given for part in ("--set", one))]
    arguments += ["--alone"] * ("result" in kill_at or "outputs" in kill_at)  # else nothing follows that needs them
    return commands.run(arguments, folder, {"TOPWORK_CACHE": str(folder.parent / "cache")}, kill_at=kill_at)


@pytest.fixture(scope="module")
def undisturbed(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("killed") / "undisturbed"
    assert train(commands, folder) == 0, (folder / "printed.txt").read_text()
    return folder


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


PLACES = {
    "folder": ("*/checkpoints/*", "model"),
    "file": ("*/run.json", "*/result.json", "*/outputs.safetensors"),
    "removed": ("*/checkpoints/*",),
}
MOMENTS = [(point, place) for point in FAULT_POINTS for place in PLACES[point.split()[0]]]


@pytest.mark.slow
@pytest.mark.reliability("A2")
@pytest.mark.parametrize(("point", "place"), MOMENTS, ids=[f"{point} {place}" for point, place in MOMENTS])
def test_killed_at_each_moment_of_each_write_a_run_is_finished_as_if_it_had_not_been(
    commands: Commands, undisturbed: Path, point: str, place: str
) -> None:
    folder = undisturbed.parent / f"{point} {place}".replace("/", "-").replace("*", "x")
    times = {"*/checkpoints/*": 3, "*/run.json": 1 if point == "file renamed" else 2}.get(place, 1)
    assert train(commands, folder, kill_at=f"{point}|{place}|{times}") == -signal.SIGKILL
    assert train(commands, folder, kill_at=f"never|{place}|1") == 0, (folder / "printed.txt").read_text()
    assert files_in(folder) == files_in(undisturbed)
    for name in ("weights.safetensors", "model.json"):
        assert (folder / "model" / name).read_bytes() == (undisturbed / "model" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.reliability("A1", "D56")
def test_killed_again_and_again_at_random_moments_a_run_is_finished_as_if_it_had_not_been(
    commands: Commands, _migrated_store: Path
) -> None:
    draw, tally = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", 0)), Tally()
    for number, drawn in enumerate(
        [
            {"freeze": "{kind: gradual, start: 1}", "weighting": "{kind: dynamic_average}"},
            {"weighting": "{kind: torchjd, aggregator: ExcessMTL}", "freeze": "{kind: none}"},
            {"freeze": "{kind: all}", "training": kills.TRAINING | {"stop": "per_task", "patience": 1}},
        ][:RANDOM_RUNS]
    ):
        training = {"training": kills.TRAINING | {"batch_size": 16, "shuffle": True}} | drawn
        drawn = training | {"tasks.category.head.dropout": 0.3}
        common = [*TINY[:2], "tracking.log_model=false"]
        kill_and_compare(
            commands, drawn, draw, tally, warm=number == 1, kills=3, common=common, database=_migrated_store
        )
    assert tally.runs == RANDOM_RUNS
