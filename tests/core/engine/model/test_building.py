"""A model is built piece by piece from seeds of its own; a setting that does not fit is reported where it stands."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from encoding_helpers import corpus_of
from model_helpers import model_of
from topwork.engine.model.plan import make_plan
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.labels import Classes
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing import TinyBackboneConfig
from topwork_plugins.heads.classification import ClassificationConfig

LABELS = {"sentiment": Classes(("neg", "pos")), "category": Classes(("books", "music", "tools"))}


def test_adding_a_task_does_not_change_the_weights_of_another_head(make: Callable[..., Experiment]) -> None:
    tasks = make().tasks
    alone = model_of(make(tasks={"category": tasks["category"]}), LABELS).heads["category"].state_dict()
    together = model_of(make(tasks=tasks), LABELS).heads["category"].state_dict()
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_heads_of_different_tasks_start_differently(make: Callable[..., Experiment]) -> None:
    same = Task(label="category", head=ClassificationConfig(hidden=()))
    labels = {"one": LABELS["category"], "two": LABELS["category"]}
    heads = model_of(make(tasks={"one": same, "two": same}), labels).heads
    assert not torch.equal(heads["one"][0].weight, heads["two"][0].weight)


def test_the_seed_decides_the_weights_of_a_head(make: Callable[..., Experiment]) -> None:
    first, again, other = (
        model_of(make(training={"seed": seed}), LABELS).heads["category"].state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_building_leaves_the_global_generator_alone(make: Callable[..., Experiment]) -> None:
    before = torch.get_rng_state()
    model_of(make(), LABELS)
    assert torch.equal(torch.get_rng_state(), before)


WRITTEN = """\
name: written
data: {{r: {{path: {file}}}}}
backbone: {{kind: minilm}}
tasks:
  category:
    label: category
    head: {head}
freeze: {freeze}
"""


@pytest.mark.parametrize(
    ("head", "freeze", "message"),
    [
        (
            "{kind: binary}",
            "{kind: all}",
            "experiment.yaml:7:5: tasks.category.head: a binary head needs 2 classes, but the training rows have 3: "
            "books, music, tools; use {kind: classification}",
        ),
        (
            "{kind: classification}",
            "{kind: last_layers, count: 3}",
            "experiment.yaml:8:1: freeze: count must be at most 2, the layers of the backbone, but is 3",
        ),
        (
            "{kind: classification}",
            "{kind: all_except, patterns: [layer.1.fnn]}",
            "experiment.yaml:8:1: freeze: pattern 'layer.1.fnn' matches no parameter of the backbone; "
            "did you mean layer.1.ffn?",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_reported_where_it_stands(
    reviews_file: Path, write: Callable[..., Path], head: str, freeze: str, message: str
) -> None:
    path = write("experiment.yaml", WRITTEN.format(file=reviews_file, head=head, freeze=freeze))
    experiment = load_experiment(path).model_copy(update={"backbone": TinyBackboneConfig()})
    with pytest.raises(ConfigurationError) as caught:
        model = model_of(experiment, LABELS)
        size = corpus_of(model.backbone.tokenizer, ["a text"]).size
        make_plan(model, size, experiment.freeze, experiment.optimizer, experiment.training, origin=experiment.origin)
    assert str(caught.value) == f"{path.parent}/{message}"


class UnreadableBackboneConfig(TinyBackboneConfig):
    """A backbone that cannot be built."""

    def build(self) -> Backbone:
        raise ValueError("its weights cannot be read")


class UnreadablePoolingConfig(PoolingConfig):
    """A pooling that cannot be built."""

    kind: Literal["unreadable"] = "unreadable"

    def build(self, width: int) -> Pooling:
        raise ValueError(f"it needs a width of 7, not {width}")


def test_a_plugin_that_cannot_be_built_is_reported_where_it_stands(
    reviews_file: Path, write: Callable[..., Path]
) -> None:
    text = WRITTEN.format(file=reviews_file, head="{kind: binary}", freeze="{kind: all}") + "pooling: {kind: cls}\n"
    path = write("experiment.yaml", text)
    written = load_experiment(path).model_copy(update={"backbone": TinyBackboneConfig()})
    broken = {
        f"{path}:3:1: backbone: its weights cannot be read": {"backbone": UnreadableBackboneConfig()},
        f"{path}:9:1: pooling: it needs a width of 7, not 16": {"pooling": UnreadablePoolingConfig()},
    }
    for message, change in broken.items():
        with pytest.raises(ConfigurationError) as caught:
            model_of(written.model_copy(update=change), LABELS)
        assert str(caught.value) == message
