"""``topwork schema`` prints the schema, or writes it where an editor finds it."""

import json
from collections.abc import Callable
from pathlib import Path

from plugin_files import write_head
from topwork.experiment.json_schema import experiment_schema
from topwork.registry import discover

Command = Callable[..., tuple[int, str, str]]


def test_the_schema_is_printed(command: Command) -> None:
    code, out, _ = command("schema")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(experiment_schema(discover())))


def test_it_is_written_with_what_to_put_into_the_experiment(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "topwork.schema.json"
    code, out, _ = command("schema", "--output", path)
    assert code == 0
    assert f"# yaml-language-server: $schema={path}" in out
    assert json.loads(path.read_text())["$schema"].endswith("2020-12/schema")


def test_it_has_the_plugin_files_of_an_experiment(command: Command, tmp_path: Path, write: Callable[..., Path]) -> None:
    write_head(tmp_path / "my_head.py")
    _, out, _ = command("schema", write("mine.yaml", "plugins: [my_head.py]\n"))
    assert "shifted" in json.loads(out)["$defs"]["HeadConfig"]["properties"]["kind"]["enum"]


def test_a_place_where_no_file_can_be_is_an_error_of_storage(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = command("schema", "--output", tmp_path / "file" / "schema.json")
    assert code == 5
    assert str(tmp_path / "file") in err
