"""Freeze strategies that change, and what tells how a run of several phases went."""

from collections.abc import Collection
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from model_helpers import pooled_by_whole
from topwork.engine.encoding.corpus import tokenize
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Epoch, Observer
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.model import Model
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig
from topwork_plugins.poolings.mean import MeanConfig


class AlternatingConfig(FreezeStrategyConfig):
    """Trains the last feed-forward network in odd epochs only."""

    kind: Literal["alternating"] = "alternating"

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        return [name for name in names if "layer.1.ffn" in name] if epoch % 2 else []


class DescendingConfig(FreezeStrategyConfig):
    """Trains the first layer in the first epoch, and the second from then on."""

    kind: Literal["descending"] = "descending"

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        return [name for name in names if ("layer.0." if epoch == 1 else "layer.1.") in name]


STRATEGIES = pytest.mark.parametrize(
    "freeze",
    [GradualConfig(), GradualConfig(start=1, every=2), AlternatingConfig(), DescendingConfig()],
    ids=["gradual", "gradual from the last layer", "alternating", "descending"],
)
POOLINGS = pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()], ids=["cls", "mean"])
POOLINGS_AND_LAYERS = pytest.mark.parametrize(
    "pooling",
    [ClsConfig(), MeanConfig(), LayerMixConfig(layers=("embeddings", 0, 1), each="mean")],
    ids=["cls", "mean", "layers"],
)


class Watcher(Observer):
    """Copies all weights after each epoch."""

    model: Any = None

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def epoch(self, epoch: Epoch) -> None:
        self.weights.append(weights_of(self.model))


def weights_of(model: MultiTaskModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def different(some: dict[str, Tensor], others: dict[str, Tensor]) -> set[str]:
    assert some.keys() == others.keys()
    return {name for name in some if not torch.equal(some[name], others[name])}


@torch.no_grad()
def whole_forward(trained: Any, split: str) -> dict[str, Tensor]:
    """The outputs for a split, computed from its texts through the whole model."""
    model, texts = trained.model.eval(), trained.prepared.dataset.splits[split].texts
    ids = tokenize(model.backbone.tokenizer, texts).token_ids
    padded, mask = ids.batch(torch.arange(len(texts)))
    pooled = pooled_by_whole(model, padded, mask)
    return {task: head(pooled) for task, head in model.heads.items()}
