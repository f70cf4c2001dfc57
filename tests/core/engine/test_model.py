"""The model is cut where training begins, and built part by part from seeds of its own."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from topwork.engine.encoding import make_corpus
from topwork.engine.model import Cut, MultiTaskModel, build_model, check_stages, derive_seed, seeded
from topwork.engine.plan import make_plan
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.head import Classes
from topwork.interfaces.pooling import Pooling
from topwork.testing import TinyBackboneConfig, tiny_model
from topwork.testing.tiny import FirstToken, TinyBackbone
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.poolings.mean import MeanPooling

WIDTH = 16
LABELS = {"sentiment": Classes(("neg", "pos")), "category": Classes(("books", "music", "tools"))}


class ScaledFirst(FirstToken):
    """Scales the first token by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0] * self.scale


class ScaledMean(MeanPooling):
    """Scales the mean by a parameter."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return super().forward(hidden, mask) * self.scale


class Dropping(FirstToken):
    """Drops half of the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(hidden[:, 0])
        return dropped


def names_with(model: MultiTaskModel, *patterns: str) -> list[str]:
    names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
    return [name for name in names if any(pattern in name for pattern in patterns)]


EVERYTHING = ("",)
NOTHING = ("no such parameter",)


@pytest.mark.parametrize(
    ("pooling", "trains", "cut"),
    [
        (FirstToken, NOTHING, Cut(5, "pooled")),
        (lambda: MeanPooling(WIDTH), NOTHING, Cut(5, "pooled")),
        (ScaledFirst, NOTHING, Cut(5, "first token")),
        (ScaledMean, NOTHING, Cut(5, "tokens")),
        (FirstToken, ("layer.1.ffn",), Cut(4, "first token")),
        (FirstToken, ("layer.1.output_layer_norm",), Cut(4, "first token")),
        (lambda: MeanPooling(WIDTH), ("layer.1.ffn",), Cut(4, "tokens")),
        (ScaledMean, ("layer.1.ffn",), Cut(4, "tokens")),
        (FirstToken, ("layer.1.attention.in_proj_weight",), Cut(3, "tokens")),
        (FirstToken, ("layer.1.attention_norm",), Cut(3, "tokens")),
        (lambda: MeanPooling(WIDTH), ("layer.1.attention_norm",), Cut(3, "tokens")),
        (FirstToken, ("layer.0.ffn",), Cut(2, "tokens")),
        (FirstToken, ("layer.0.ffn", "layer.1.ffn"), Cut(2, "tokens")),
        (FirstToken, ("layer.",), Cut(1, "tokens")),
        (FirstToken, ("positions",), Cut(0, "token ids")),
        (lambda: MeanPooling(WIDTH), ("embeddings", "layer.1.ffn"), Cut(0, "token ids")),
        (FirstToken, EVERYTHING, Cut(0, "token ids")),
    ],
)
def test_the_cut_is_before_the_first_stage_that_trains(
    pooling: Callable[[], Pooling], trains: tuple[str, ...], cut: Cut
) -> None:
    model = tiny_model(pooling())
    model.train_only(names_with(model, *trains))
    assert model.cut == cut


@pytest.mark.parametrize("pooling", [FirstToken, lambda: MeanPooling(WIDTH)])
@pytest.mark.parametrize("trains", [NOTHING, ("layer.1.ffn",), ("layer.1",), ("layer.0.ffn",), EVERYTHING])
def test_prefix_and_suffix_together_are_the_whole_model(
    pooling: Callable[[], Pooling], trains: tuple[str, ...]
) -> None:
    model = tiny_model(pooling()).eval()
    ids, mask = torch.randint(3, 50, (4, 9)), torch.ones(4, 9, dtype=torch.bool)
    whole = {task: head(model.pooling(model.backbone(ids, mask), mask)) for task, head in model.heads.items()}
    model.train_only(names_with(model, *trains))
    kept = model.prefix(ids, mask)
    for task, outputs in model.eval()(kept, mask[:, : kept.shape[1]]).items():
        torch.testing.assert_close(outputs, whole[task], atol=1e-6, rtol=0)


def test_only_named_parameters_train() -> None:
    model = tiny_model()
    model.train_only(names_with(model, "layer.1.ffn"))
    training = [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]
    assert [f"backbone.{name}" for name in training] == names_with(model, "layer.1.ffn")
    assert all(parameter.requires_grad for parameter in model.heads.parameters())


def test_what_was_thawed_is_frozen_again() -> None:
    model = tiny_model()
    model.train_only(names_with(model, ""))
    model.train_only([])
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert model.cut == Cut(5, "pooled")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.train(),
        lambda model: model.train(True),
        lambda model: nn.Sequential(model).train(),
        lambda model: nn.ModuleDict({"inner": nn.Sequential(model)}).train(),
    ],
)
def test_the_prefix_stays_in_eval_mode_whoever_calls_train(call: Callable[[MultiTaskModel], Any]) -> None:
    model = tiny_model()
    model.train_only(names_with(model, "layer.1.ffn"))
    call(model)
    stages = model.backbone.stages()
    left = [module.training for stage in stages[:4] for parent in stage.modules for module in parent.modules()]
    right = [module.training for stage in stages[4:] for parent in stage.modules for module in parent.modules()]
    assert not any(left)
    assert all(right)
    assert all(head.training for head in model.heads.values())


def test_a_pooling_left_of_the_cut_stays_in_eval_mode() -> None:
    model = tiny_model(Dropping())
    model.train_only([])
    assert not model.train().pooling.dropout.training


def test_a_pooling_right_of_the_cut_trains() -> None:
    model = tiny_model(Dropping())
    model.train_only(names_with(model, "layer.1.ffn"))
    assert model.train().pooling.dropout.training


def test_the_prefix_gives_no_gradient() -> None:
    model = tiny_model()
    model.train_only(names_with(model, "layer.1.ffn"))
    kept = model.prefix(torch.randint(3, 50, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    assert not kept.requires_grad


@pytest.mark.parametrize("name", ["type", "keys", "items", "values", "forward", "training", "parameters", "pop"])
def test_a_task_may_be_named_like_an_attribute(make: Callable[..., Experiment], name: str) -> None:
    experiment = make(tasks={name: Task(label="category", head=ClassificationConfig(hidden=()))})
    model = build_model(experiment, {name: LABELS["category"]})
    model.train_only([])
    outputs = model(torch.zeros(2, 1, WIDTH), torch.ones(2, 1, dtype=torch.bool))
    assert outputs[name].shape == (2, 3)
    assert f"heads.{name}.0.weight" in dict(model.named_parameters())
    assert f"heads.{name}.0.weight" in model.state_dict()


def test_adding_a_task_does_not_change_the_weights_of_another_head(make: Callable[..., Experiment]) -> None:
    tasks = make().tasks
    alone = build_model(make(tasks={"category": tasks["category"]}), LABELS).heads["category"].state_dict()
    together = build_model(make(tasks=tasks), LABELS).heads["category"].state_dict()
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_heads_of_different_tasks_start_differently(make: Callable[..., Experiment]) -> None:
    same = Task(label="category", head=ClassificationConfig(hidden=()))
    labels = {"one": LABELS["category"], "two": LABELS["category"]}
    heads = build_model(make(tasks={"one": same, "two": same}), labels).heads
    assert not torch.equal(heads["one"][0].weight, heads["two"][0].weight)


def test_the_seed_decides_the_weights_of_a_head(make: Callable[..., Experiment]) -> None:
    first, again, other = (
        build_model(make(training={"seed": seed}), LABELS).heads["category"].state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_building_leaves_the_global_generator_alone(make: Callable[..., Experiment]) -> None:
    before = torch.get_rng_state()
    build_model(make(), LABELS)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ_for_each_purpose() -> None:
    purposes = [("order", "1"), ("order", "2"), ("dropout", "1"), ("order1",), ("order", "1", "")]
    assert len({derive_seed(0, *purpose) for purpose in purposes}) == len(purposes)
    assert all(0 <= derive_seed(2**63 - 1, *purpose) < 2**63 for purpose in purposes)


def test_a_seeded_block_leaves_the_generator_as_it_was_when_it_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(0, "test"):
        torch.rand(1)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("names", [["backbone.nothing"], ["heads.animal.weight"], ["embeddings.weight"]])
def test_names_of_other_than_backbone_parameters_are_refused(tiny: MultiTaskModel, names: Collection[str]) -> None:
    with pytest.raises(PluginError, match=f"must name backbone parameters, but named {next(iter(names))}"):
        tiny.train_only(names)


def test_a_refused_name_freezes_nothing(tiny: MultiTaskModel) -> None:
    before = [parameter.requires_grad for parameter in tiny.parameters()]
    with pytest.raises(PluginError):
        tiny.train_only(["backbone.nothing"])
    assert [parameter.requires_grad for parameter in tiny.parameters()] == before


class Faulty(TinyBackbone):
    """A backbone whose first stage holds other modules than it should."""

    def __init__(self, fault: Literal["none", "two", "buffer"]) -> None:
        super().__init__(max_length=8)
        self.fault = fault
        if fault == "buffer":
            self.register_buffer("scale", torch.ones(1))

    def stages(self) -> Sequence[Stage]:
        first, *others = super().stages()
        modules: dict[str, tuple[nn.Module, ...]] = {
            "none": (self.embeddings,),
            "two": (*first.modules, self.layer[1]),
            "buffer": tuple(first.modules),
        }
        return [Stage(first.name, modules[self.fault], first.run, first.mixes_tokens), *others]


class FaultyConfig(TinyBackboneConfig):
    """Settings of the faulty backbone."""

    fault: Literal["none", "two", "buffer"]

    def build(self) -> Backbone:
        return Faulty(self.fault)


@pytest.mark.parametrize(
    ("fault", "named"), [("none", "positions.weight"), ("two", "layer.1.ffn.0.weight"), ("buffer", "scale")]
)
def test_each_parameter_and_buffer_must_belong_to_exactly_one_stage(
    make: Callable[..., Experiment], fault: Literal["none", "two", "buffer"], named: str
) -> None:
    with pytest.raises(
        PluginError, match=r"backbone 'tiny': each parameter and buffer must belong to exactly one stage"
    ) as caught:
        build_model(make(backbone=FaultyConfig(fault=fault)), LABELS)
    assert named in str(caught.value)
    assert "layer.0" not in str(caught.value)


def test_a_sound_backbone_passes_the_check_of_its_stages() -> None:
    check_stages(TinyBackbone(max_length=8), "tiny")


def test_a_parameter_that_a_stage_lists_twice_is_counted_once() -> None:
    class Twice(TinyBackbone):
        def stages(self) -> Sequence[Stage]:
            first, *others = super().stages()
            return [Stage(first.name, (*first.modules, self.positions), first.run, False), *others]

    check_stages(Twice(max_length=8), "twice")


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
        model = build_model(experiment, LABELS)
        make_plan(experiment, model, make_corpus(model.backbone.tokenizer, {"train": ["a text"]}))
    assert str(caught.value) == f"{path.parent}/{message}"
