"""A process is known by its name: whether it runs, whatever has its number now."""

import subprocess
import sys

import psutil
import pytest

from topwork.process_name import is_dead_here, this_process
from waiting import wait_for


def test_this_process_lives() -> None:
    assert not is_dead_here(this_process())


NAME = "from topwork.process_name import this_process; print(this_process(), flush=True); input()"


def test_a_process_that_ended_is_dead_even_before_its_parent_takes_note() -> None:
    command = [sys.executable, "-c", NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        name = child.stdout.readline().strip()
        assert not is_dead_here(name)
        child.kill()
        wait_for(lambda: is_dead_here(name))  # a zombie, for a moment
    assert is_dead_here(name)


def test_another_process_with_the_same_number_is_another() -> None:
    host, number, _, boot, namespace = this_process().split(":")
    assert is_dead_here(f"{host}:{number}:1:{boot}:{namespace}")
    assert is_dead_here(f"{host}:rubbish:1:{boot}:{namespace}")


def test_of_processes_that_another_kernel_numbers_nothing_is_known() -> None:
    host, number, _, boot, namespace = this_process().split(":")
    assert not is_dead_here(f"{host}:{number}:1:another-boot:{namespace}")
    assert not is_dead_here(f"{host}:{number}:1:{boot}:1")
    assert not is_dead_here(f"{host}:999999999:1.00")  # as an earlier version wrote it
    assert not is_dead_here("")


def test_of_a_process_in_a_container_with_this_hosts_name_nothing_is_known() -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody make a PID namespace")
    command = [*unshare, sys.executable, "-c", NAME]
    inside = subprocess.run(command, input="\n", capture_output=True, text=True, check=True).stdout.strip()
    assert inside.split(":")[:2] == [this_process().split(":")[0], "1"]
    assert not is_dead_here(inside)


def test_when_a_process_started_does_not_move_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    name = this_process()
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)  # what psutil reckons from
    assert this_process() == name
    assert not is_dead_here(name)


def test_elsewhere_than_on_linux_a_process_is_known_by_the_time_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    host, number, started, *rest = this_process().split(":")
    assert started == f"{psutil.Process().create_time():.2f}"
    assert not is_dead_here(this_process())
    assert is_dead_here(":".join([host, number, "1.00", *rest]))
