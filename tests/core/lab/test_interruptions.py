"""A run that is interrupted or killed, at whatever moment, is marked as such in MLflow."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
def test_a_run_that_is_asked_to_end_is_marked_as_killed(process: subprocess.Popen[bytes], store_uri: str) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert only_run(store_uri).info.status == "KILLED"


@pytest.mark.slow
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
