"""Whether a process lives can be told later and by others, but only of processes of this machine."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from study_helpers import wait_for
from topwork.lab.processes import is_dead_here, this_process, undisturbed


def test_this_process_lives() -> None:
    assert not is_dead_here(this_process())


def test_a_process_that_ended_is_dead_even_before_its_parent_takes_note() -> None:
    host = this_process().partition(":")[0]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{host}:{child.pid}:{psutil.Process(child.pid).create_time():.2f}"
    assert not is_dead_here(name)
    child.kill()
    wait_for(lambda: is_dead_here(name))  # a zombie, for a moment
    child.communicate()
    assert is_dead_here(name)


def test_another_process_with_the_same_number_is_another() -> None:
    host, number, _ = this_process().split(":")
    assert is_dead_here(f"{host}:{number}:1.00")
    assert is_dead_here(f"{host}:rubbish")


def test_of_other_machines_nothing_can_be_told() -> None:
    assert not is_dead_here("elsewhere:1:1.00")
    assert not is_dead_here("")


def test_a_signal_waits_until_a_step_is_done() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("done")
    assert steps == ["done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
