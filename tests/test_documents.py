"""The README and the experiment files stay true: their commands run, their listings are what they claim to be."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

import topwork
from pages import blocks_of
from topwork.experiment.schema import Experiment
from topwork.experiment.section import Section

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in the README."""
    return [block.code for block in blocks_of(ROOT / "README.md", language)]


def run(*command: str, folder: Path) -> str:
    """Run a command of this environment in a folder and return what it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiments, to run the README's commands in."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    return folder


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_readme_shows_the_quickstart_as_it_is() -> None:
    shown = YAML(typ="safe").load(blocks("yaml")[0])
    assert shown == YAML(typ="safe").load(ROOT / "experiments" / "quickstart.yaml")


def test_the_head_of_the_readme_is_the_one_that_is_installed_and_trained() -> None:
    package = ROOT / "tests" / "outside" / "topwork-prototypes"
    listings = blocks("python")
    assert (package / "topwork_prototypes.py").read_text(encoding="utf-8") in listings
    assert (package / "test_prototypes.py").read_text(encoding="utf-8") in listings
    shown = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs/plugins/head.md").read_text(), flags=re.M | re.S)[0]
    assert shown in (package / "pyproject.toml").read_text(encoding="utf-8")
    code = [line for line in (package / "topwork_prototypes.py").read_text().splitlines() if line.strip()]
    assert len(code) < 30


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_an_experiment_file_begins_with_the_command_that_runs_it(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    commands = ["train", "transfer", "probe", *(["study"] if topwork.load_experiment(file).study else [])]
    assert first.startswith(tuple(f"# topwork {command} experiments/{file.name}" for command in commands))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_an_experiment_file_is_valid(file: Path) -> None:
    assert topwork.load_experiment(file).name


def test_the_synthetic_reviews_are_what_their_script_makes(checkout: Path) -> None:
    data = checkout / "experiments" / "data"
    run(sys.executable, str(data / "make_synthetic_reviews.py"), folder=checkout)
    made, kept = data / "synthetic_reviews.csv", ROOT / "experiments" / "data" / "synthetic_reviews.csv"
    assert made.read_bytes() == kept.read_bytes()


@pytest.mark.slow
def test_the_baseline_measures_the_same_rows(checkout: Path) -> None:
    baseline = str(checkout / "experiments" / "tfidf_baseline.py")
    printed = run(sys.executable, baseline, "experiments/quickstart.yaml", folder=checkout)
    assert "TF-IDF and logistic regression, test rows" in printed
    assert printed.count(" 180\n") == 6


def settings_of(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a section, by path, with its default; ``*`` stands for a name of the researcher's own."""
    for name, field in section.model_fields.items():
        inside = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        inner = next((one for one in inside if issubclass(one, Section)), None)
        if inner is None:
            yield f"{path}{name}", field.get_default(call_default_factory=True)
        else:
            yield from settings_of(inner, f"{path}{name}.{'*.' if get_origin(field.annotation) is dict else ''}")


#: The rows of the reference: a setting, and its default as it is written in YAML.
ROWS = dict(re.findall(r"^\| `([^`]+)` \| (?:`([^`]*)`)? ?\|", REFERENCE, flags=re.MULTILINE))
SETTINGS = dict(settings_of(Experiment))


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_stands_in_the_reference_with_its_default(setting: str) -> None:
    assert setting in ROWS
    default = list(SETTINGS[setting]) if setting == "plugins" else SETTINGS[setting]
    written = YAML(typ="safe", pure=True).load(ROWS[setting]) if ROWS[setting] else PydanticUndefined
    if isinstance(written, dict) and written:  # a plugin's kind
        minimal = Experiment.model_validate(
            {"name": "a", "data": {"a": {"path": "a.csv"}}, "tasks": {"a": {"label": "a"}}},
            context={"registry": topwork.discover()},
        ).dump()
        default = {
            "kind": (minimal["tasks"]["a"] if setting.endswith("head") else minimal)[setting.split(".")[-1]]["kind"]
        }
    assert written == default
    assert type(written) is type(default)


def test_the_reference_has_no_settings_that_are_not_there() -> None:
    assert ROWS.keys() == SETTINGS.keys()
    assert len(SETTINGS) > 50
