"""Signals wait or become exits; and whether a process lives is known later, but only of processes of this machine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import psutil
import pytest

from topwork.lab.processes import defer_signals, exit_on_sigterm, is_dead_here, this_process
from waiting import wait_for

pytestmark = pytest.mark.usefixtures("heard")


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


def test_of_other_machines_nothing_is_known() -> None:
    assert not is_dead_here("elsewhere:1:1.00")
    assert not is_dead_here("")


def test_a_signal_waits_until_a_step_is_done() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), defer_signals():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("done")
    assert steps == ["done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with exit_on_sigterm(), defer_signals():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_becomes_an_exit_and_its_handler_is_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught, exit_on_sigterm():
        signal.raise_signal(number)
        pytest.fail("the signal was lost")
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("block", [exit_on_sigterm, defer_signals])
def test_outside_the_main_thread_no_handler_is_touched(block: Callable[[], AbstractContextManager[None]]) -> None:
    handlers: list[object] = []

    def enter() -> None:
        with block():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
