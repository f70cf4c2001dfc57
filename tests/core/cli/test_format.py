"""Every command that prints a table can print it for other programs too."""

from typer.main import get_command

from topwork.cli import app

PRINTS_NO_TABLE = {"sync", "explain", "schema", "encode", "ui", "path", "verify", "prune"}


def test_every_command_with_a_table_has_a_format() -> None:
    commands = dict(get_command(app).commands)
    commands |= commands.pop("cache").commands
    del commands["new"]  # which writes files
    with_format = {name for name, one in commands.items() if any("--format" in p.opts for p in one.params)}
    assert with_format == commands.keys() - PRINTS_NO_TABLE
