"""Signals wait or become exits; and whether a process lives is known later, but only of processes of this machine."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from topwork.lab.processes import StopSignals, defer_signals, exit_on_sigterm

pytestmark = pytest.mark.usefixtures("heard")


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


@pytest.mark.reliability("A8")
def test_a_handler_that_was_there_is_called_before_the_exit() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit, match="143"), exit_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("heard")
class TestStopSignals:
    """Signals wait until a training can be written down."""

    def test_the_first_waits_and_is_obeyed_when_that_is_asked(self) -> None:
        stop = StopSignals()
        with pytest.raises(KeyboardInterrupt), stop.deferred():
            assert not stop.is_made()
            signal.raise_signal(signal.SIGINT)
            assert stop.is_made()
            stop.obey()
        assert not stop.is_made()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_one_that_nobody_obeyed_is_obeyed_at_the_end(self) -> None:
        stop, passed = StopSignals(), []
        with pytest.raises(SystemExit, match="143"), exit_on_sigterm(), stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            passed.append(True)
        assert passed

    def test_the_second_ends_the_block_at_once(self) -> None:
        stop = StopSignals()
        with pytest.raises(KeyboardInterrupt), stop.deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it went on")

    def test_a_handler_that_does_not_raise_does_not_keep_a_training_alive(self) -> None:
        heard: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
        stop = StopSignals()
        try:
            with pytest.raises(KeyboardInterrupt), stop.deferred():
                signal.raise_signal(signal.SIGINT)
                stop.obey()
            assert heard == [signal.SIGINT]
        finally:
            signal.signal(signal.SIGINT, before)

    def test_one_that_is_ignored_stays_ignored(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = StopSignals()
        try:
            with stop.deferred():
                signal.raise_signal(signal.SIGHUP)
                assert not stop.is_made()
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_other_errors_pass_and_handlers_are_put_back(self) -> None:
        stop = StopSignals()
        with pytest.raises(ValueError, match="theirs"), stop.deferred():
            raise ValueError("theirs")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    @pytest.mark.reliability("A8")
    def test_outside_the_main_thread_no_handler_is_touched(self) -> None:
        found: list[object] = []

        def work() -> None:
            with StopSignals().deferred():
                found.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [signal.default_int_handler]
