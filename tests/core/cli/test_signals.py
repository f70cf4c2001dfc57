"""A signal ends a command also where Python would drop it."""

import gc
import signal
import sys
import weakref
from threading import Event

import pytest

from topwork.cli.signals import resend_dropped_signals
from topwork.lab.processes import exit_on_sigterm
from waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("heard")


class Thing:
    """Something that can be referred to weakly."""


def send_when_it_goes(number: signal.Signals) -> None:
    """Let a signal arrive in the callback of a weak reference; the import system has many of those."""
    thing = Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    gc.collect()
    assert kept() is None


@pytest.mark.slow
def test_ctrl_c_in_a_callback_is_sent_again() -> None:
    with pytest.raises(KeyboardInterrupt), resend_dropped_signals():
        send_when_it_goes(signal.SIGINT)
        Event().wait(PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_in_a_callback_is_sent_again(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_sigterm(), resend_dropped_signals():
        send_when_it_goes(number)
        Event().wait(PATIENCE)
    assert caught.value.code == 128 + number


@pytest.mark.slow
def test_other_errors_in_callbacks_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []

    def report(dropped: "sys.UnraisableHookArgs") -> None:
        reported.append(dropped.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", report)
    thing = Thing()
    kept = weakref.ref(thing, lambda _: 1 / 0)
    with resend_dropped_signals():
        del thing
        gc.collect()
    assert kept() is None
    assert [type(error) for error in reported] == [ZeroDivisionError]
    assert sys.unraisablehook is report
