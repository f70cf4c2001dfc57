"""``topwork explain`` tells of interfaces, kinds and settings what their docstrings and the schema say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plugin_files import write_head
from topwork.cli.explain import find_setting, in_words, members
from topwork.experiment.json_schema import experiment_schema
from topwork.registry import discover

Command = Callable[..., tuple[int, str, str]]


def test_a_kind_is_told_with_its_settings_an_example_and_its_place(command: Command) -> None:
    code, out, _ = command("explain", "classification")
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith("head classification, of topwork ")
    assert "a perceptron, softmax, and cross-entropy" in lines[1]
    (dropout,) = [line for line in lines if line.startswith("dropout")]
    assert dropout.split("  ")[1:] != []
    assert "a number from 0, and below 1" in dropout
    (example,) = [line for line in lines if line.startswith("example: ")]
    assert example.startswith("example: head: {kind: classification, hidden: [100, 50], activation: relu, dropout: 0.0")
    assert lines[-2].startswith("where: ")
    assert "heads/classification.py:" in lines[-2]


def test_a_kind_of_two_interfaces_is_told_twice(command: Command) -> None:
    _, out, _ = command("explain", "uniform")
    assert "optimizer grouping uniform, of topwork" in out
    assert "sampler uniform, of topwork" in out
    assert "example: optimizer: {kind: uniform, " in out
    assert "example: sampling: {kind: uniform, " in out


def test_an_interface_is_told_with_its_kinds_and_what_to_implement(command: Command) -> None:
    _, out, _ = command("explain", "head")
    assert out.startswith("head, an interface for plugins\n")
    assert "kinds: binary, classification, " in out
    assert "a plugin implements: build\n" in out
    assert "interfaces/head.py:" in out


def test_a_setting_is_told_with_its_range_and_default(command: Command) -> None:
    _, out, _ = command("explain", "training.patience")
    assert "stop after this many epochs in a row in which monitor did not improve" in out
    assert "it is a whole number from 1, or null; 2 where it is not given" in out
    assert "example: --set training.patience=2" in out


def test_a_section_is_told_with_its_settings(command: Command) -> None:
    _, out, _ = command("explain", "tasks")
    assert "for each, by a name of your own:" in out
    assert "loss_weight" in out
    _, out, _ = command("explain", "data.mine.split")
    assert "in_order, random, stratified" in out
    _, out, _ = command("explain", "freeze")
    assert "all_except where it is not given; topwork explain KIND tells its settings" in out


def test_an_interface_is_found_as_the_command_line_writes_it(command: Command) -> None:
    assert command("explain", "freeze-strategy")[1] == command("explain", "freeze strategy")[1]


def test_what_a_list_holds_is_told(command: Command) -> None:
    assert "a list, each text, or a mapping" in command("explain", "plugins")[1]
    assert "for each, by a path of a setting:" in command("explain", "study.search")[1]


def test_a_setting_of_a_plugin_is_found_below_any_name(command: Command) -> None:
    _, out, _ = command("explain", "tasks.my_task.head.label_smoothing")
    assert "spread evenly over all classes" in out


def test_what_is_not_there_is_refused_with_the_nearest(command: Command) -> None:
    code, out, err = command("explain", "trainig.patience")
    assert (code, out) == (2, "")
    assert "no interface, kind, setting or public name 'trainig.patience'; did you mean training.patience?" in err
    assert "did you mean binary?" in command("explain", "bniary")[2]
    assert command("explain", "training.patience.more")[0] == 2


def test_a_kind_of_a_plugin_file_is_found_by_the_experiment_that_names_it(
    command: Command, tmp_path: Path, write: Callable[..., Path]
) -> None:
    write_head(tmp_path / "my_head.py", "11.5")
    file = write("mine.yaml", "plugins: [my_head.py]\n")
    _, out, _ = command("explain", "shifted", file)
    assert out.startswith("head shifted, of my_head.py ")
    assert "it has no settings" in out
    assert f"where: {tmp_path / 'my_head.py'}:" in out
    assert command("explain", "shifted")[0] == 2


def test_a_public_name_is_told_with_its_docstring(command: Command) -> None:
    for subject in ("Decoded", "topwork.Decoded"):
        code, out, _ = command("explain", subject)
        assert code == 0
        assert out.startswith("topwork.Decoded\nWhat a head says of N texts.")
    assert "a number" not in command("explain", "Rate")[1]
    assert "float" in command("explain", "Rate")[1]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "integer", "minimum": 1}, "a whole number from 1"),
        ({"type": "number", "exclusiveMinimum": 0}, "a number above 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "a number from 0, and below 1"),
        ({"type": "integer", "minimum": 0, "maximum": 5}, "a whole number from 0 to 5"),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}, "a whole number from 0"),
        ({"type": "array", "items": {"type": "string"}}, "a list, each text"),
        ({"type": "array"}, "a list"),
        ({"enum": ["a", "b"]}, "one of a, b"),
        ({"const": "a"}, "a"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "true or false, or null"),
        ({"type": "object"}, "a mapping"),
        ({}, "anything"),
    ],
)
def test_what_a_value_may_be_is_said_in_words(part: dict[str, object], words: str) -> None:
    assert in_words(part) == words


def test_every_setting_that_there_is_can_be_explained() -> None:
    schema = experiment_schema(discover())

    def paths(section: object, before: str = "") -> list[str]:
        found = []
        for name, part in members(section, schema).items():  # type: ignore[arg-type]
            found += [f"{before}{name}", *paths(part, f"{before}{name}.")]
        return found

    every = paths(schema)
    assert len(every) > 150
    for path in every:
        setting = find_setting(schema, path)
        assert setting is not None
        assert in_words(setting)
