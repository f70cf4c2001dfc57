"""A signal ends a command also where Python would drop it."""

import gc
import signal
import sys
import time
import weakref

import pytest

from topwork.cli.signals import heeded
from topwork.lab.processes import terminable


class Thing:
    """Something that can be referred to weakly."""


def send_when_it_goes(number: signal.Signals) -> None:
    """Let a signal arrive in the callback of a weak reference; the import system has many of those."""
    thing = Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    gc.collect()
    assert kept() is None


def test_ctrl_c_in_a_callback_is_heeded() -> None:
    with pytest.raises(KeyboardInterrupt), heeded():
        send_when_it_goes(signal.SIGINT)
        time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_in_a_callback_is_heeded(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught, terminable(), heeded():
        send_when_it_goes(number)
        time.sleep(5)
    assert caught.value.code == 128 + number


def test_other_faults_in_callbacks_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def tell(dropped: "sys.UnraisableHookArgs") -> None:
        told.append(dropped.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", tell)
    thing = Thing()
    kept = weakref.ref(thing, lambda _: 1 / 0)
    with heeded():
        del thing
        gc.collect()
    assert kept() is None
    assert [type(fault) for fault in told] == [ZeroDivisionError]
    assert sys.unraisablehook is tell
