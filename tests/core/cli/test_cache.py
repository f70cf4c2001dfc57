"""``topwork cache`` shows, checks and clears what is stored, and says what it did."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from topwork.engine.encoding.store.activation_store import ActivationStore

Command = Callable[..., tuple[int, str, str]]
Store = Callable[..., ActivationStore]

ASK = "import sys; sys.argv = ['topwork', 'cache', '--help']\nfrom topwork.cli import main\n"
CHECK = "try:\n    main()\nfinally:\n    assert not {'torch', 'mlflow', 'transformers', 'numpy'} & sys.modules.keys()"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The cache folder that TOPWORK_CACHE names."""
    return tmp_path / "cache"


def test_path_prints_the_folder_and_makes_none(command: Command, root: Path) -> None:
    assert command("cache", "path") == (0, f"{root}\n", "")
    assert not root.exists()


def test_help_of_the_cache_imports_neither_torch_nor_mlflow() -> None:
    asked = subprocess.run([sys.executable, "-c", ASK + CHECK], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert {"path", "list", "verify", "prune"} <= set(asked.stdout.split())


@pytest.mark.parametrize("arguments", [("list",), ("verify",), ("prune", "--unused", "0")])
def test_a_cache_that_is_a_file_is_a_storage_error(
    command: Command, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPWORK_CACHE", str(tmp_path / "file"))
    code, _, error = command("cache", *arguments)
    assert (code, error) == (5, f"error: {tmp_path / 'file'} is not a folder; set TOPWORK_CACHE to one\n")


@pytest.mark.parametrize("arguments", [("path",), ("list",), ("prune", "--unused", "0")])
def test_a_cache_in_the_home_of_nobody_is_a_fault_of_configuration(
    command: Command, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPWORK_CACHE", "~nobody-of-this-name/cache")
    code, _, error = command("cache", *arguments)
    assert code == 2
    assert error.startswith("error: TOPWORK_CACHE is ~nobody-of-this-name/cache, but there is no such home folder: ")
