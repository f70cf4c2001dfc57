"""The model is cut where training begins: left of it in eval mode and without gradient, right of it trained."""

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_helpers import model_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.prefix import Cut
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.labels import Classes
from topwork.interfaces.pooling import Pooling
from topwork.testing import tiny_model
from topwork.testing.tiny import FirstToken
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
    model.set_trainable(names_with(model, *trains))
    assert model.cut == cut


@pytest.mark.parametrize("pooling", [FirstToken, lambda: MeanPooling(WIDTH)])
@pytest.mark.parametrize("trains", [NOTHING, ("layer.1.ffn",), ("layer.1",), ("layer.0.ffn",), EVERYTHING])
def test_prefix_and_suffix_together_are_the_whole_model(
    pooling: Callable[[], Pooling], trains: tuple[str, ...]
) -> None:
    model = tiny_model(pooling()).eval()
    ids, mask = torch.randint(3, 50, (4, 9)), torch.ones(4, 9, dtype=torch.bool)
    whole = {task: head(model.pooling(model.backbone(ids, mask), mask)) for task, head in model.heads.items()}
    model.set_trainable(names_with(model, *trains))
    kept = model.run_prefix(ids, mask)
    every = dict.fromkeys(model.tasks, torch.arange(4))
    for task, outputs in model.eval()(kept, mask[:, : kept.shape[1]], every).items():
        torch.testing.assert_close(outputs, whole[task], atol=1e-6, rtol=0)


def test_a_head_gets_the_texts_that_have_a_label_for_it_alone() -> None:
    model = tiny_model().eval()
    ids, mask = torch.randint(3, 50, (4, 9)), torch.ones(4, 9, dtype=torch.bool)
    pooled = model.pooling(model.backbone(ids, mask), mask)
    outputs = model(ids, mask, {"mood": torch.tensor([1, 3])})
    assert outputs.keys() == {"mood"}
    torch.testing.assert_close(outputs["mood"], model.heads["mood"](pooled[[1, 3]]), atol=1e-6, rtol=0)


def test_only_named_parameters_train() -> None:
    model = tiny_model()
    model.set_trainable(names_with(model, "layer.1.ffn"))
    training = [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]
    assert [f"backbone.{name}" for name in training] == names_with(model, "layer.1.ffn")
    assert all(parameter.requires_grad for parameter in model.heads.parameters())


def test_what_was_unfrozen_is_frozen_again() -> None:
    model = tiny_model()
    model.set_trainable(names_with(model, ""))
    model.set_trainable([])
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
    model.set_trainable(names_with(model, "layer.1.ffn"))
    call(model)
    stages = model.backbone.stages()
    left = [module.training for stage in stages[:4] for parent in stage.modules for module in parent.modules()]
    right = [module.training for stage in stages[4:] for parent in stage.modules for module in parent.modules()]
    assert not any(left)
    assert all(right)
    assert all(head.training for head in model.heads.values())


def test_a_pooling_left_of_the_cut_stays_in_eval_mode() -> None:
    model = tiny_model(Dropping())
    model.set_trainable([])
    assert not model.train().pooling.dropout.training


def test_a_pooling_right_of_the_cut_trains() -> None:
    model = tiny_model(Dropping())
    model.set_trainable(names_with(model, "layer.1.ffn"))
    assert model.train().pooling.dropout.training


def test_the_prefix_gives_no_gradient() -> None:
    model = tiny_model()
    model.set_trainable(names_with(model, "layer.1.ffn"))
    kept = model.run_prefix(torch.randint(3, 50, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    assert not kept.requires_grad


@pytest.mark.parametrize("name", ["type", "keys", "items", "values", "forward", "training", "parameters", "pop"])
def test_a_task_may_be_named_like_an_attribute(make: Callable[..., Experiment], name: str) -> None:
    experiment = make(tasks={name: Task(label="category", head=ClassificationConfig(hidden=()))})
    model = model_of(experiment, {name: LABELS["category"]})
    model.set_trainable([])
    outputs = model(
        torch.zeros(2, 1, WIDTH), torch.ones(2, 1, dtype=torch.bool), dict.fromkeys(model.tasks, torch.arange(2))
    )
    assert outputs[name].shape == (2, 3)
    assert f"heads.{name}.0.weight" in dict(model.named_parameters())
    assert f"heads.{name}.0.weight" in model.state_dict()


@pytest.mark.parametrize("names", [["backbone.nothing"], ["heads.animal.weight"], ["embeddings.weight"]])
def test_names_of_other_than_backbone_parameters_are_refused(tiny: MultiTaskModel, names: Collection[str]) -> None:
    with pytest.raises(PluginError, match=f"must name backbone parameters, but named {next(iter(names))}"):
        tiny.set_trainable(names)


def test_a_refused_name_freezes_nothing(tiny: MultiTaskModel) -> None:
    before = [parameter.requires_grad for parameter in tiny.parameters()]
    with pytest.raises(PluginError):
        tiny.set_trainable(["backbone.nothing"])
    assert [parameter.requires_grad for parameter in tiny.parameters()] == before
