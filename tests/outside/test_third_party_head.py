"""A head from another package: really installed, discovered, tested by its contract, trained, and missed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from topwork.testing import HeadContract

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parent / "topwork-prototypes"
QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
SETTINGS = [
    "tasks.category.head.kind=prototypes",
    "data.reviews.limit=300",
    "freeze={kind: all}",
    "training.epochs=20",
    "optimizer.heads_lr=0.02",
    "tracking.enabled=false",
]
TRAIN = [str(QUICKSTART), *(part for setting in SETTINGS for part in ("--set", setting)), "--output", "model"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the package, outside of the environment of these tests."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, str(PACKAGE)]
    subprocess.run(pip, check=True)
    return target


def run(*command: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with ``path`` on its path."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def test_the_command_lists_it_with_package_and_version(installed: Path) -> None:
    listed = run("-m", "topwork.cli", "plugins", path=installed)
    assert listed.returncode == 0, listed.stderr
    row = next(line.split() for line in listed.stdout.splitlines() if "prototypes" in line)
    assert row == ["head", "prototypes", "topwork-prototypes", "0.3"]


def test_it_passes_the_contract_that_topwork_ships(installed: Path) -> None:
    tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(PACKAGE), path=installed)
    assert tested.returncode == 0, tested.stdout
    checks = [name for name in dir(HeadContract) if name.startswith("test_")]
    assert f"{len(checks)} passed" in tested.stdout


def test_it_trains_beside_a_shipped_head_and_its_model_says_what_it_needs(installed: Path) -> None:
    trained = run("-m", "topwork.cli", "train", *TRAIN, path=installed)
    assert trained.returncode == 0, trained.stderr
    assert "category   accuracy" in trained.stdout

    predicted = run("-m", "topwork.cli", "predict", "model", "The singer is wonderful.", path=installed)
    assert predicted.returncode == 0, predicted.stderr
    assert "music" in predicted.stdout

    without = run("-m", "topwork.cli", "predict", "model", "The singer is wonderful.")
    assert without.returncode == 4
    assert "model needs head 'prototypes' of package topwork-prototypes 0.3" in without.stderr
    assert "pip install 'topwork-prototypes==0.3'" in without.stderr


def test_without_it_the_experiment_says_which_kinds_are_installed() -> None:
    refused = run("-m", "topwork.cli", "train", *TRAIN)
    assert refused.returncode == 2
    assert "no head of kind 'prototypes' is installed, only binary, classification" in refused.stderr
