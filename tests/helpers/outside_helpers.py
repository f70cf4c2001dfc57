"""Packages from outside, really installed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from topwork.testing import PluginContract

OUTSIDE = Path(__file__).parents[1] / "outside"


def install(packages: Sequence[str], target: Path) -> Path:
    """Let pip install packages of tests/outside into a folder outside of the environment of these tests."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    folders = [str(OUTSIDE / name) for name in packages]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, *folders]
    subprocess.run(pip, check=True)
    return target


def run(*command: str, path: Path, folder: Path) -> str:
    """Run Python with ``path`` on its path, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1"}
    command = (sys.executable, *command)
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def assert_keeps_contract(name: str, contract: type[PluginContract], *, path: Path, folder: Path) -> None:
    """Run the tests of a package, which are those of a contract."""
    tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(OUTSIDE / name), path=path, folder=folder)
    checks = [check for check in dir(contract) if check.startswith("test_")]
    assert f"{len(checks)} passed" in tested


def lines_of(name: str) -> int:
    """How many lines of a package's module are not empty."""
    lines = (OUTSIDE / name / f"{name.replace('-', '_')}.py").read_text().splitlines()
    return len([line for line in lines if line.strip()])
