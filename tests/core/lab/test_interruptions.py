"""A run that is interrupted or killed, at whatever moment, is marked as such in MLflow."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from run_helpers import only_run, open_small_store
from small_experiment import QUICKSTART, SMALL
from topwork.engine.observer import EncodingReport
from topwork.lab.tracking.run_log import log_run
from waiting import PATIENCE, wait_for

pytestmark = pytest.mark.usefixtures("heard")


@pytest.fixture
def process(heard: None, installed: Path, store_uri: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A long training run in a process of its own, whose first epoch is done."""
    settings = [*SMALL, f"tracking.uri={store_uri}", "training={epochs: 10000, patience: null, device: cpu}"]
    command = [sys.executable, "-m", "topwork.cli", "train", str(QUICKSTART)]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONUNBUFFERED": "1"}
    printed = tmp_path / "printed.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_for(lambda: process.poll() is not None or "epoch   1" in printed.read_text())
        assert process.poll() is None, printed.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.reliability("A6", "A7")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_end_is_marked_as_killed_and_says_how_to_go_on(
    process: subprocess.Popen[bytes], store_uri: str, tmp_path: Path, number: int
) -> None:
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert only_run(store_uri).info.status == "KILLED"
    *_, last = (tmp_path / "printed.txt").read_text().splitlines()
    assert re.fullmatch(r"what is done is kept; go on with: topwork resume models/runs/quickstart-\w{6}", last)
    shutil.rmtree("models")


@pytest.mark.slow
@pytest.mark.reliability("D56")
def test_a_run_that_was_killed_is_marked_when_the_next_one_begins(
    process: subprocess.Popen[bytes], store_uri: str
) -> None:
    assert only_run(store_uri).info.status == "RUNNING"
    process.kill()
    process.wait()
    open_small_store(store_uri)
    assert only_run(store_uri).info.status == "KILLED"


@contextmanager
def ctrl_c_after(statement: str) -> Iterator[None]:
    """Press Ctrl-C in the middle of a database's step, after the first statement that has these words."""
    pressed = False

    def press(*details: object) -> None:
        nonlocal pressed
        if statement in str(details[2]) and not pressed:
            pressed = True
            signal.raise_signal(signal.SIGINT)

    event.listen(Engine, "after_cursor_execute", press)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", press)


def test_a_signal_in_the_middle_of_a_write_leaves_no_lock_behind(store_uri: str) -> None:
    store = open_small_store(store_uri)
    with ctrl_c_after("INTO metrics"), pytest.raises(KeyboardInterrupt), log_run(store, "interrupted") as log:
        log.encoded(EncodingReport(texts=80, encoded=0, seconds=0.0, where="memory", note=""))
    run = only_run(store_uri)
    assert run.info.status == "KILLED"
    assert run.data.metrics["activations/texts"] == 80


def test_a_signal_while_a_run_is_created_leaves_it_marked(store_uri: str) -> None:
    store = open_small_store(store_uri)
    with ctrl_c_after("INTO runs"), pytest.raises(KeyboardInterrupt), log_run(store, "interrupted"):
        pytest.fail("the signal was lost")
    assert only_run(store_uri).info.status == "KILLED"


#: How many first runs are interrupted; 60 are for a patient person.
FIRST_RUNS = int(os.environ.get("TOPWORK_FIRST_RUNS", "1"))


@contextmanager
def first_run(folder: Path, installed: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The first run in a folder, where there is no database yet."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "topwork.cli", "train", str(QUICKSTART), "--output", "model"]
    command += [part for setting in SMALL for part in ("--set", setting)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    with (folder / "printed.txt").open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_works_again(folder: Path, installed: Path) -> None:
    """Check that the same command then trains its model, and leaves nothing beside it."""
    shutil.rmtree(folder / "model", ignore_errors=True)  # where the interruption came after the end
    with first_run(folder, installed) as process:
        assert process.wait(PATIENCE) == 0, (folder / "printed.txt").read_text()
    assert (folder / "model" / "model.json").exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_first_run_that_is_killed_while_its_database_is_created_can_be_begun_again(
    installed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    with first_run(folder, installed) as process:
        wait_for(lambda: list(folder.glob(".*.database.topwork-unfinished")) or process.poll() is not None)
        process.kill()
        process.wait()
        assert not (folder / "mlflow.db").exists()
    assert_works_again(folder, installed)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FIRST_RUNS))
def test_a_first_run_that_is_interrupted_at_any_moment_can_be_begun_again(
    installed: Path, tmp_path: Path, number: int
) -> None:
    moment, folder = (3 + 7.3 * number) % 20, tmp_path / "first"
    with first_run(folder, installed) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal([signal.SIGINT, signal.SIGTERM, signal.SIGKILL][number % 3])
        process.wait(PATIENCE)
    assert_works_again(folder, installed)
