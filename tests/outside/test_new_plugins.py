"""What ``topwork new`` writes for each interface is installed in a fresh environment, passes its tests, and trains."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from topwork.cli.new import INTERFACES

pytestmark = pytest.mark.slow

#: What takes the place of the plugins of one example experiment, so that it trains with one of each interface.
ALL = [
    "tasks.sentiment.head={kind: mine_head}",
    "backbone={kind: mine_backbone}",
    "pooling={kind: mine_pooling}",
    "freeze={kind: mine_freeze_strategy}",
    "optimizer={kind: mine_optimizer_grouping}",
    "sampling={kind: mine_sampler}",
    "weighting={kind: mine_loss_weighting}",
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment beside topwork, with a package of each interface installed from where it was written."""
    folder = tmp_path_factory.mktemp("new")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    here = sysconfig.get_path("purelib")
    (site / "beside.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    for interface in INTERFACES:
        run(sys.executable, "-m", "topwork.cli", "new", interface, f"mine-{interface}", folder=folder)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    packages = [part for interface in INTERFACES for part in ("-e", f"topwork-mine-{interface}")]
    run(str(python), "-m", "pip", "install", *options, *packages, folder=folder)
    return python


def run(*command: str, folder: Path) -> str:
    finished = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_all_of_them_are_listed(python: Path) -> None:
    listed = run(str(python), "-m", "topwork.cli", "plugins", folder=python.parents[2])
    for interface in INTERFACES:
        assert f"topwork-mine-{interface} " in listed


@pytest.mark.parametrize("interface", INTERFACES)
def test_its_tests_pass(python: Path, interface: str) -> None:
    folder = python.parents[2] / f"topwork-mine-{interface}"
    assert " passed" in run(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=folder)


def test_one_experiment_trains_with_all_of_them(python: Path) -> None:
    folder = python.parents[2] / "topwork-mine-head"
    settings = [part for one in [*ALL, "tracking.enabled=false"] for part in ("--set", one)]
    trained = run(
        str(python), "-m", "topwork.cli", "train", "experiment.yaml", *settings, "--output", "model", folder=folder
    )
    assert "sentiment  accuracy" in trained
    assert "what is right of it" not in trained
    assert (folder / "model" / "model.json").exists()


@pytest.mark.parametrize("interface", INTERFACES)
def test_its_example_is_an_experiment_with_it(python: Path, interface: str) -> None:
    folder = python.parents[2] / f"topwork-mine-{interface}"
    code = "import topwork; print(topwork.load_experiment('experiment.yaml').dump())"
    assert f"'kind': 'mine_{interface.replace('-', '_')}'" in run(str(python), "-c", code, folder=folder)
