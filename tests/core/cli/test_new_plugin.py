"""``topwork new`` writes a plugin of under 25 lines, as a package or as a single file, and never over anything."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from topwork.cli.new import INTERFACES
from topwork.cli.new_plugin import values_of
from topwork.plugin_file import read_plugin_file
from topwork.registry import discover

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_interface_has_a_template() -> None:
    interfaces = {catalog.interface for catalog in discover().catalogs().values()}
    assert {interface.replace("-", " ") for interface in INTERFACES} == interfaces


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_package_has_a_plugin_of_under_25_lines_with_all_that_belongs_to_it(command: Command, interface: str) -> None:
    code, out, _ = command("new", interface, "span-pair")
    assert code == 0
    package = Path("topwork-span-pair")
    assert {path.name for path in package.iterdir()} == {
        "topwork_span_pair.py",
        "test_topwork_span_pair.py",
        "pyproject.toml",
        "README.md",
        "experiment.yaml",
        "reviews.csv",
    }
    lines = [line for line in (package / "topwork_span_pair.py").read_text().splitlines() if line.strip()]
    assert len(lines) < 25
    assert not any("$" in path.read_text() for path in package.iterdir() if path.suffix != ".csv")
    assert out.startswith(f"topwork-span-pair: the {interface.replace('-', ' ')} is in topwork_span_pair.py; next:\n")
    assert "pip install -e topwork-span-pair" in out
    experiment = YAML(typ="safe").load(package / "experiment.yaml")
    assert "span_pair" in str(experiment)
    registry = discover([read_plugin_file(package / "topwork_span_pair.py")])
    assert "span_pair" in [plugin.kind for plugin in registry.plugins()]


def test_a_name_with_py_is_a_single_file(command: Command) -> None:
    code, out, _ = command("new", "pooling", "both_ends.py")
    assert code == 0
    assert "both_ends" in discover([read_plugin_file(Path("both_ends.py"))]).poolings.plugins
    assert out == "both_ends.py: name it in an experiment:\n  plugins: [both_ends.py]\n  pooling: {kind: both_ends}\n"


def test_nothing_is_overwritten(command: Command) -> None:
    for name, made in (("mine.py", "mine.py"), ("mine", "topwork-mine")):
        assert command("new", "head", name)[0] == 0
        code, _, err = command("new", "head", name)
        assert code == 5
        assert f"{made} exists already; nothing is overwritten" in err


@pytest.mark.parametrize("name", ["Mine", "1st", "mine!", "-", "a b", "mine__it", "x" * 61, "ä", "Mine.py"])
def test_a_name_that_is_none_is_refused(command: Command, name: str) -> None:
    code, _, err = command("new", "head", "--", name)
    assert code == 2
    assert "a plugin is named by small letters, digits and - or _ between them" in err
    assert list(Path().iterdir()) == []


def test_a_kind_that_is_taken_is_refused(command: Command) -> None:
    code, _, err = command("new", "head", "binary")
    assert code == 2
    assert "package topwork has a head binary already; take another name" in err
    assert command("new", "pooling", "binary")[0] == 0


def test_words_are_put_together_as_each_place_wants_them() -> None:
    values = values_of("optimizer grouping", "optimizer", "by_size", contract="OptimizerGroupingContract")
    assert values["name"] == "BySize"
    assert values["module"] == "topwork_by_size"
    assert values["package"] == "topwork-by-size"
    assert values["article"] == "an"
    assert values["entries"].splitlines()[-1] == "optimizer: {kind: by_size}"
