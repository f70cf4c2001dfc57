"""``topwork new`` lists what can be begun."""

from collections.abc import Callable

from topwork.cli.new import INTERFACES

Command = Callable[..., tuple[int, str, str]]


def test_every_interface_is_a_command_with_help(command: Command) -> None:
    code, out, _ = command("new", "--help")
    assert code == 0
    for interface in INTERFACES:
        assert f" {interface} " in out
    assert "Write an optimizer grouping" in out
