"""A study's values are checked before anything runs, and vary the experiment and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import field_validator
from ruamel.yaml import YAML

from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment, Task
from topwork.experiment.search import resolve_search, short_names, study_of, with_overrides
from topwork.experiment.source import Source
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.registry import Plugin, Registry, discover
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.samplers.proportional import ProportionalConfig

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
PLAIN = QUICKSTART.read_text(encoding="utf-8").partition("\nstudy:")[0]
OWN_FREEZE = {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]}

Write = Callable[..., Path]
Load = Callable[..., Experiment]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture
def load(write: Write) -> Load:
    """Load the quickstart with a study section that searches what is given."""

    def load_with(search: str) -> Experiment:
        text = PLAIN + f"\nstudy:\n  search:\n    {search}\n  objective: loss\n"
        return load_experiment(write("study.yaml", text))

    return load_with


def place(experiment_text: str, of: str) -> str:
    """Line and column of a piece of text."""
    before = experiment_text[: experiment_text.index(of)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


@pytest.mark.parametrize(
    ("search", "baseline", "name", "integer"),
    [
        ("optimizer.heads_lr: {low: 1e-4, high: 1e-2, log: true}", 1e-3, "heads_lr", False),
        ("pooling.kind: {choices: [cls, mean]}", "mean", "pooling.kind", False),
        ("tasks.category.head.hidden: {choices: [[50], [100, 50]]}", "[100, 50]", "hidden", False),
        ("tasks.category.head.hidden.1: {low: 10, high: 90}", 50, "hidden.1", True),
        ("training.epochs: {low: 5, high: 25, step: 5}", 20, "epochs", True),
        ("tasks.category.loss_weight: {low: 1, high: 3}", 1.0, "loss_weight", False),
        ("training.clip_norm: {choices: [null, 1.0]}", None, "clip_norm", False),
        (
            "freeze: {choices: [{kind: all}, {kind: all_except, patterns: [layer.5.ffn, layer.5.output_layer_norm]}]}",
            '{"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]}',
            "freeze",
            False,
        ),
    ],
)
def test_a_setting_of_any_kind_can_be_searched(
    load: Load, registry: Registry, search: str, baseline: Any, name: str, integer: bool
) -> None:
    experiment = load(search)
    (searched,) = resolve_search(experiment, registry)
    assert (searched.baseline, searched.name, searched.integer) == (baseline, name, integer)
    assert with_overrides(experiment, {searched.path: searched.value(baseline)}, registry).dump() == experiment.dump()


def test_other_values_change_what_they_name_and_nothing_else(load: Load, registry: Registry) -> None:
    experiment = load("optimizer.heads_lr: {low: 1e-4, high: 1e-2}")
    values = {"optimizer.heads_lr": 0.005, "tasks.category.head.hidden.0": 30, "freeze": {"kind": "all"}}
    expected = experiment.dump()
    expected["optimizer"]["heads_lr"] = 0.005
    expected["tasks"]["category"]["head"]["hidden"][0] = 30
    expected["freeze"] = {"kind": "all"}
    assert with_overrides(experiment, values, registry).dump() == expected
    assert experiment.dump()["freeze"] == OWN_FREEZE


def test_another_kind_gets_its_own_defaults(load: Load, registry: Registry) -> None:
    experiment = load("pooling.kind: {choices: [cls, mean]}")
    assert with_overrides(experiment, {"pooling.kind": "cls"}, registry).pooling == ClsConfig()


def test_an_experiment_made_in_python_can_be_varied(registry: Registry) -> None:
    experiment = Experiment(
        name="made",
        data={"rows": Source(path=Path("rows.csv"))},
        backbone=MiniLmConfig(),
        pooling=ClsConfig(),
        tasks={"a": Task(label="a", head=BinaryConfig())},
        freeze=AllExceptConfig(patterns=("layer.5.ffn",)),
        optimizer=HeadsAndBackboneConfig(heads_lr=0.5),
        sampling=ProportionalConfig(),
        weighting=FixedConfig(),
    )
    varied = with_overrides(experiment, {"optimizer.backbone_lr": 0.25}, registry)
    assert varied.optimizer == HeadsAndBackboneConfig(heads_lr=0.5, backbone_lr=0.25)
    assert varied.freeze == experiment.freeze


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("optimizer.head_lr: {low: 1.0, high: 2.0}", "optimizer.head_lr: unknown key; did you mean heads_lr?"),
        ("optimiser.heads_lr: {low: 1.0, high: 2.0}", "the experiment has no setting optimiser"),
        (
            "optimizer.heads_lr: {low: -1, high: 1}",
            "optimizer.heads_lr: input should be greater than or equal to 0, got -1",
        ),
        (
            "pooling.kind: {choices: [mean, csl]}",
            "csl: pooling: no pooling of kind 'csl' is installed, only attention, cls, concat_layers, last, "
            "layer_mix, max, mean, weighted_mean; did you mean cls?",
        ),
        (
            "optimizer.kind: {choices: [heads_and_backbone, uniform]}",
            "uniform: optimizer.heads_lr: unknown key\nuniform: optimizer.backbone_lr: unknown key",
        ),
        ("optimizer.heads_lr.x: {low: 1.0, high: 2.0}", "the experiment has no setting optimizer.heads_lr.x"),
        (
            "training.epochs: {choices: [20, many]}",
            "many: training.epochs: input should be a valid integer, got 'many'",
        ),
        ("training.epochs: {low: 1, high: 20.5}", "training.epochs: input should be a valid integer, got 20.5"),
        (
            "training.epochs: {low: 19, high: 21, step: 0.5}",
            "it takes whole numbers only, so step must be one, got 0.5",
        ),
        ("freeze.patterns.5: {choices: [layer.5]}", "the experiment has no setting freeze.patterns.5"),
        ("freeze.patterns.x: {choices: [layer.5]}", "the experiment has no setting freeze.patterns.x"),
        (
            "optimizer.heads_lr: {low: 1e-2, high: 1e-1}",
            "the experiment's own value, 0.001, is not among 0.01 to 0.1, but the first trial has it; "
            "widen the search, change the setting, or begin without it: study.baseline: false",
        ),
        (
            "training.epochs: {low: 1, high: 21, step: 5}",
            "the experiment's own value, 20, is not among 1 to 21 in steps of 5, but the first trial has it; "
            "widen the search, change the setting, or begin without it: study.baseline: false",
        ),
        (
            "pooling.kind: {choices: [cls]}",
            "the experiment's own value, mean, is not among choices cls, but the first trial has it; "
            "widen the search, change the setting, or begin without it: study.baseline: false",
        ),
    ],
)
def test_values_that_do_not_fit_are_told_where_they_stand(
    load: Load, registry: Registry, search: str, message: str
) -> None:
    experiment = load(search)
    with pytest.raises(ConfigurationError) as caught:
        resolve_search(experiment, registry)
    path = search.partition(":")[0]
    where = f"{experiment.origin.file}:{place(experiment.origin.text, search)}: study.search.{path}"
    hint = "; to change other settings with it, search optimizer: {choices: [{kind: ...}, ...]}"
    assert [line.removesuffix(hint) for line in str(caught.value).splitlines()] == [
        f"{where}: {line}" for line in message.splitlines()
    ]
    assert (hint in str(caught.value)) == search.startswith("optimizer.kind")


def test_all_errors_are_told_at_once(load: Load, registry: Registry) -> None:
    experiment = load("training.epoch: {low: 1, high: 2}\n    pooling.kind: {choices: [mean, man]}")
    with pytest.raises(ConfigurationError) as caught:
        resolve_search(experiment, registry)
    assert len(str(caught.value).splitlines()) == 2


class OddConfig(PoolingConfig):
    """A pooling that refuses a value without a word."""

    kind: Literal["odd"] = "odd"
    size: int = 1

    @field_validator("size")
    @classmethod
    def _small(cls, size: int) -> int:
        if size > 1:
            raise ConfigurationError
        return size

    def build(self, width: int) -> Pooling:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("search", "words"), [("{low: 1, high: 2}", "ConfigurationError"), ("{choices: [1, 2]}", "2: ConfigurationError")]
)
def test_a_value_that_is_refused_without_a_word_is_still_an_error(write: Write, search: str, words: str) -> None:
    registry = discover()
    registry.poolings.add(Plugin("pooling", "odd", OddConfig, "odd-poolings", "0.1"))
    text = PLAIN.replace("{kind: mean}", "{kind: odd}")
    text += f"\nstudy:\n  search:\n    pooling.size: {search}\n  objective: loss\n"
    experiment = load_experiment(write("study.yaml", text), registry=registry)
    with pytest.raises(ConfigurationError) as caught:
        resolve_search(experiment, registry)
    assert str(caught.value).endswith(f": study.search.pooling.size: {words}")


def test_an_experiment_without_a_study_section_says_what_one_looks_like(write: Write) -> None:
    file = write("plain.yaml", PLAIN)
    experiment = load_experiment(file)
    with pytest.raises(ConfigurationError) as caught:
        study_of(experiment)
    assert str(caught.value) == (
        f"{file}:1:1: the experiment has no study section; add one, such as "
        "study: {search: {optimizer.heads_lr: {low: 1e-4, high: 1e-2, log: true}}, objective: loss}"
    )
    section = str(caught.value).partition("such as ")[2]
    assert YAML(typ="safe").load(section)["study"]["objective"] == "loss"


def test_names_are_as_short_as_they_can_be() -> None:
    paths = ["optimizer.heads_lr", "tasks.a.head.hidden", "tasks.b.head.hidden", "pooling.kind", "freeze"]
    assert list(short_names(paths).values()) == ["heads_lr", "a.head.hidden", "b.head.hidden", "pooling.kind", "freeze"]


PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, max_size=8)


@given(PATHS)
def test_names_never_meet(paths: list[str]) -> None:
    names = short_names(paths)
    assert len(set(names.values())) == len(paths)
    assert all(path == name or path.endswith(f".{name}") for path, name in names.items())


def test_without_a_baseline_the_experiments_own_value_may_be_left_out(load: Load, registry: Registry) -> None:
    experiment = load("training.epochs: {choices: [8, 16, 32]}")
    study = experiment.study.model_copy(update={"baseline": False})
    (searched,) = resolve_search(experiment.model_copy(update={"study": study}), registry)
    assert searched.baseline == 20


@pytest.mark.parametrize(
    ("search", "count"),
    [
        ("training.epochs: {low: 1, high: 21}", 21),
        ("training.epochs: {low: 5, high: 20, step: 5}", 4),
        ("pooling.kind: {choices: [cls, mean]}", 2),
        ("optimizer.heads_lr: {low: 1.0e-4, high: 1.0e-2}", None),
    ],
)
def test_a_setting_says_how_many_values_it_has(load: Load, registry: Registry, search: str, count: int | None) -> None:
    (searched,) = resolve_search(load(search), registry)
    assert searched.count == count
