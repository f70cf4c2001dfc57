"""The schema accepts every experiment of this project, and refuses what is wrong at the place where it is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

import topwork
from plugin_files import write_head
from topwork.errors import ConfigurationError
from topwork.experiment.json_schema import experiment_schema
from topwork.experiment.yaml_text import write_inline
from topwork.plugin_file import read_plugin_file
from topwork.registry import Registry, discover

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.yaml"))

Validator = jsonschema.Draft202012Validator


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(experiment_schema(discover())))
    Validator.check_schema(schema)
    return Validator(schema)


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_every_experiment_of_this_project_is_accepted(path: Path, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(read(path))] == []


#: A setting by its path, a value that is wrong, and where the schema says so: there, or at the section around it.
WRONG: dict[str, tuple[Any, str]] = {
    "nmae": ("x", ""),
    "name": ("1st", "name"),
    "name ": ("x", ""),
    "training.epochs": ("5", "training.epochs"),
    "training.epoch": (5, "training"),
    "training.batch_size": (0, "training.batch_size"),
    "training.seed": (-1, "training.seed"),
    "training.seeds": ([], "training.seeds"),
    "training.warmup": (1.0, "training.warmup"),
    "training.optimizer": ("Adan", "training.optimizer"),
    "training.schedule": ("step", "training.schedule"),
    "training.shuffle": ("yes", "training.shuffle"),
    "training.clip_norm": (0, "training.clip_norm"),
    "training.checkpoint_minutes": (-1, "training.checkpoint_minutes"),
    "tasks.sentiment.label": (3, "tasks.sentiment.label"),
    "tasks.sentiment.lable": ("x", "tasks.sentiment"),
    "tasks.sentiment.missing": ("drop", "tasks.sentiment.missing"),
    "tasks.sentiment.head.kind": ("bniary", "tasks.sentiment.head.kind"),
    "tasks.sentiment.head.dropout": (1.0, "tasks.sentiment.head.dropout"),
    "tasks.sentiment.head.hiden": ([10], "tasks.sentiment.head"),
    "tasks.sentiment.head.class_weights": ("balanced", "tasks.sentiment.head"),  # a setting of another kind
    "tasks.2nd": ({"label": "x"}, "tasks"),
    "tasks": ({}, "tasks"),
    "data.reviews.path": (7, "data.reviews.path"),
    "data.reviews.limit": (0.5, "data.reviews.limit"),
    "data.reviews.split.method": ("sorted", "data.reviews.split.method"),
    "data.reviews.split.test": (1.5, "data.reviews.split.test"),
    "backbone.kind": ("bert", "backbone.kind"),
    "pooling": ("mean", "pooling"),
    "freeze.patterns": ("layer.5", "freeze.patterns"),
    "optimizer.heads_lr": ("fast", "optimizer.heads_lr"),
    "optimizer.head_lr": (1e-3, "optimizer"),
    "tracking.enabled": (1, "tracking.enabled"),
    "study.trials": (0, "study.trials"),
    "study.objective": ([], "study.objective"),
    "study.search": ({}, "study.search"),
    "plugins": (["my_head.txt"], "plugins.0"),
    "plugins ": ([{"file": "x.py"}], ""),
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_is_wrong_is_refused_at_its_place_and_by_the_experiment_too(setting: str, validator: Any) -> None:
    value, place = WRONG[setting]
    experiment = read(EXPERIMENTS / "quickstart.yaml")
    *around, last = setting.split(".")
    at = experiment
    for name in around:
        at = at.setdefault(name, {})
    at[last] = value
    (error,) = validator.iter_errors(experiment)
    assert ".".join(map(str, error.absolute_path)) == place
    with pytest.raises(ConfigurationError):
        topwork.load_experiment(EXPERIMENTS / "quickstart.yaml", [f"{setting}={write_inline(value)}"])


def test_settings_that_must_be_there_are_named(validator: Any) -> None:
    errors = {error.message for error in validator.iter_errors({})}
    assert errors == {f"'{name}' is a required property" for name in ("name", "data", "tasks")}


def test_every_setting_says_what_it_means() -> None:
    schema = experiment_schema(discover())
    sections = {"Experiment": schema, **schema["$defs"]}
    silent = [
        f"{section}.{name}"
        for section, part in sections.items()
        for name, setting in part.get("properties", {}).items()
        if name not in ("kind", "sha256", "path") and not setting.get("description")
    ]
    assert silent == []


def test_a_plugin_file_is_in_it_with_its_settings(tmp_path: Path, write: Callable[..., Path]) -> None:
    file = read_plugin_file(write_head(tmp_path / "my_head.py"))
    experiment = read(EXPERIMENTS / "quickstart.yaml")
    experiment["tasks"]["category"]["head"] = {"kind": "shifted"}
    experiment["plugins"] = ["my_head.py", {"path": "other.py", "sha256": file.sha256}]
    assert not Validator(experiment_schema(discover())).is_valid(experiment)
    assert Validator(experiment_schema(discover([file]))).is_valid(experiment)


def test_where_no_default_is_installed_a_kind_must_be_given() -> None:
    schema = experiment_schema(Registry())
    assert schema["$defs"]["HeadConfig"]["required"] == ["kind"]
    assert schema["$defs"]["HeadConfig"]["properties"]["kind"]["enum"] == []
