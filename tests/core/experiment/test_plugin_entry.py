"""An experiment names plugin files by their path, from its own folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from plugin_files import write_head
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.registry import discover

Write = Callable[..., Path]

TEXT = """\
name: mine
plugins: {plugins}
data: {{rows: {{path: rows.csv}}}}
tasks:
  genre: {{label: genre, head: {{kind: shifted}}}}
"""


def read(write: Write, plugins: str = "[my_head.py]", *overrides: str) -> Experiment:
    return topwork.load_experiment(write("mine.yaml", TEXT.format(plugins=plugins)), overrides)


def refused(write: Write, plugins: str, *overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(write, plugins, *overrides)
    return str(caught.value)


def test_a_file_is_found_from_the_experiments_folder(tmp_path: Path, write: Write) -> None:
    write_head(tmp_path / "my_head.py")
    experiment = read(write)
    assert experiment.tasks["genre"].head.kind == "shifted"
    assert [file.path for file in experiment.plugins] == [tmp_path / "my_head.py"]


def test_with_set_a_file_is_found_from_here(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    write_head(tmp_path / "here" / "my_head.py")
    monkeypatch.chdir(tmp_path / "here")
    assert read(write, "[]", "plugins=[my_head.py]").plugins[0].path == tmp_path / "here" / "my_head.py"


def test_what_is_written_of_an_experiment_says_which_text_it_had(tmp_path: Path, write: Write) -> None:
    write_head(tmp_path / "my_head.py")
    experiment = read(write)
    (file,) = experiment.plugins
    written = {"path": str(file.path), "sha256": file.sha256}
    assert experiment.dump()["plugins"] == experiment.written()["plugins"] == [written]
    again = Experiment.model_validate(experiment.written(), context={"registry": discover(experiment.plugins)})
    assert again.plugins == experiment.plugins
    varied = with_overrides(experiment, {"training.epochs": 3}, discover(experiment.plugins))
    assert varied.plugins == experiment.plugins


def test_an_experiment_that_was_written_down_is_read_with_the_same_text_only(tmp_path: Path, write: Write) -> None:
    path = write_head(tmp_path / "my_head.py")
    sha256 = read(write).plugins[0].sha256
    entry = f"[{{path: my_head.py, sha256: {sha256}}}]"
    assert read(write, entry).plugins[0].sha256 == sha256
    write_head(path, "4.5")
    told = refused(write, entry)
    assert told.startswith(f"{tmp_path / 'mine.yaml'}:2:11: plugins.0: {path} has changed: its sha256 is ")
    assert told.endswith(f", not '{sha256}'")


@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ("my_head.py", "2:1: plugins: plugins is a list of files, such as [my_head.py], got 'my_head.py'"),
        ("[3]", "2:11: plugins.0: a plugin file is named by its path, such as my_head.py, got 3"),
        ("[{file: my_head.py}]", "2:11: plugins.0: a plugin file is named by its path, such as my_head.py, got {"),
        ("[{path: my_head.py, text: x}]", "2:11: plugins.0: a plugin file is named by its path"),
        ("[nowhere.py, gone.py]", "2:11: plugins.0: "),
        ("[nowhere.py, gone.py]", "2:23: plugins.1: "),
        ("[my_head.py, other/my_head.py]", "2:1: plugins: plugin files must differ in name, but my_head.py is there"),
    ],
)
def test_what_names_no_file_is_refused_with_its_place(tmp_path: Path, write: Write, plugins: str, told: str) -> None:
    write_head(tmp_path / "my_head.py")
    (tmp_path / "other").mkdir()
    write_head(tmp_path / "other" / "my_head.py")
    assert f"{tmp_path / 'mine.yaml'}:{told}" in refused(write, plugins)


def test_a_broken_file_is_an_error_of_the_plugin(tmp_path: Path, write: Write) -> None:
    (tmp_path / "my_head.py").write_text("import torhc\n")
    with pytest.raises(PluginError, match=r"my_head.py is broken: ModuleNotFoundError: No module named 'torhc'"):
        read(write)


def test_a_misspelt_setting_of_its_head_is_told_with_the_nearest(tmp_path: Path, write: Write) -> None:
    write_head(tmp_path / "my_head.py")
    told = refused(write, "[my_head.py]", "tasks.genre.head.knid=shifted")
    assert told.endswith("tasks.genre.head.knid: unknown key; did you mean kind?")


def test_the_kinds_of_a_file_are_listed_where_one_is_misspelt(tmp_path: Path, write: Write) -> None:
    write_head(tmp_path / "my_head.py")
    assert "did you mean shifted?" in refused(write, "[my_head.py]", "tasks.genre.head.kind=shiftd")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, write: Write) -> None:
    write_head(tmp_path / "my_head.py").chmod(0)
    assert "my_head.py cannot be read: Permission denied" in refused(write, "[my_head.py]")
