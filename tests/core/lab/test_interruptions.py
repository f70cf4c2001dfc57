"""A run that is interrupted or killed, at whatever moment, is marked as such in MLflow."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from run_helpers import only_run, small
from small_experiment import QUICKSTART, SMALL
from topwork.engine.observer import Reading
from topwork.lab.processes import terminable, this_process
from topwork.lab.tracking.run_log import log_run
from topwork.lab.tracking.store import PROCESS_TAG, Store, open_store


def test_sigterm_becomes_an_exit_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def process(installed: Path, store_uri: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A long training run in a process of its own, whose first epoch is done."""
    settings = [*SMALL, f"tracking.uri={store_uri}", "training={epochs: 5000, patience: null, device: cpu}"]
    command = [sys.executable, "-m", "topwork.cli", "train", str(QUICKSTART)]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONUNBUFFERED": "1"}
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 90
        while "epoch   1" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_end_is_marked_as_killed(
    process: subprocess.Popen[bytes], store_uri: str, number: signal.Signals, code: int
) -> None:
    process.send_signal(number)
    assert process.wait(timeout=30) == code
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
    store = open_store(small(f"tracking.uri={store_uri}"))
    with ctrl_c_after("INTO metrics"), pytest.raises(KeyboardInterrupt), log_run(store, "interrupted") as log:
        log.read(Reading(texts=80, encoded=0, seconds=0.0, where="memory", note=""))
    run = only_run(store_uri)
    assert run.info.status == "KILLED"
    assert run.data.metrics["activations/texts"] == 80


def test_a_signal_while_a_run_is_created_leaves_it_marked(store_uri: str) -> None:
    store = open_store(small(f"tracking.uri={store_uri}"))
    with ctrl_c_after("INTO runs"), pytest.raises(KeyboardInterrupt), log_run(store, "interrupted"):
        pytest.fail("the signal was lost")
    assert only_run(store_uri).info.status == "KILLED"


def test_a_signal_does_not_wait_for_a_server(store_uri: str) -> None:
    opened = open_store(small(f"tracking.uri={store_uri}"))
    store = Store("http://127.0.0.1:9", opened.experiment_id, opened.client)
    with pytest.raises(KeyboardInterrupt), store.undisturbed():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal waited")


@pytest.mark.slow
def test_a_run_that_was_killed_is_marked_when_the_next_one_begins(
    process: subprocess.Popen[bytes], store_uri: str
) -> None:
    assert only_run(store_uri).info.status == "RUNNING"
    process.kill()
    process.wait(timeout=30)
    open_store(small(f"tracking.uri={store_uri}"))
    assert only_run(store_uri).info.status == "KILLED"


@pytest.mark.parametrize(
    ("owner", "status"),
    [
        pytest.param(f"{socket.gethostname()}:999999999:1.00", "KILLED", id="no such process"),
        pytest.param(f"{socket.gethostname()}:{os.getpid()}:1.00", "KILLED", id="another process of that number"),
        pytest.param(f"{socket.gethostname()}:nonsense", "KILLED", id="nonsense"),
        pytest.param(this_process(), "RUNNING", id="this process"),
        pytest.param("another-host:999999999:1.00", "RUNNING", id="another host"),
        pytest.param(None, "RUNNING", id="not ours"),
    ],
)
def test_only_runs_of_dead_processes_of_this_host_are_closed(store_uri: str, owner: str | None, status: str) -> None:
    store = open_store(small(f"tracking.uri={store_uri}"))
    tags = {PROCESS_TAG: owner} if owner else {}
    run = store.client.create_run(store.experiment_id, tags=tags)
    open_store(small(f"tracking.uri={store_uri}"))
    assert store.client.get_run(run.info.run_id).info.status == status
