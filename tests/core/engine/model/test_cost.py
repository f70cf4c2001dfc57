"""The estimated cost is that of the closed forms, written out here for DistilBERT's shape.

d is 768, the feed-forward network is 4 d wide, there are 6 layers; a layer costs 24 d^2 + 4 s d per token of a
text of s tokens: 8 d^2 for query, key, value and output, 4 s d for attention, 16 d^2 for the feed-forward network.
"""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertModel

import topwork
from topwork.engine.model.cost import cost_per_text
from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.labels import Classes
from topwork.interfaces.pooling import Pooling
from topwork.testing.tiny import letter_tokenizer
from topwork_plugins.backbones.distilbert import DistilBertBackbone
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.poolings.cls import ClsPooling
from topwork_plugins.poolings.mean import MeanPooling

D = 768
RECIPE = ("layer.5.ffn", "layer.5.output_layer_norm")
HEADS = 2 * 6 * (D * 100 + 100 * 50 + 50 * 2)  # two heads of two classes, trained
LENGTHS = pytest.mark.parametrize("s", [16, 64, 128, 256, 512])


def make_backbone(kind: type[DistilBertBackbone]) -> DistilBertBackbone:
    with torch.device("meta"):  # shapes without weights
        return kind(DistilBertModel(DistilBertConfig(vocab_size=100)), letter_tokenizer(512))


@pytest.fixture(scope="module")
def backbone() -> DistilBertBackbone:
    return make_backbone(DistilBertBackbone)


def model_of(backbone: DistilBertBackbone, pooling: Pooling, trains: tuple[str, ...]) -> MultiTaskModel:
    head = ClassificationConfig(hidden=(100, 50))
    tasks = {name: head.build(D, Classes(("no", "yes"))) for name in ("one", "two")}
    model = MultiTaskModel(backbone, pooling, tasks)
    names = [f"backbone.{name}" for name, _ in backbone.named_parameters()]
    model.set_trainable([name for name in names if any(pattern in name for pattern in trains)])
    return model


def layers(number: int, s: float) -> float:
    """Operations of a text's way through so many layers."""
    return number * s * (24 * D**2 + 4 * s * D)


def attention_from_first_token(s: float) -> float:
    """Operations of one query: keys and values for all tokens, the rest for the first."""
    return s * 4 * D**2 + 4 * D**2 + 4 * s * D


@LENGTHS
def test_encoding_all_tokens_up_to_the_last_feed_forward_network(backbone: DistilBertBackbone, s: int) -> None:
    cost = cost_per_text(model_of(backbone, MeanPooling(D), RECIPE), s)
    assert cost.encode == pytest.approx(128 * D**2 * s + 24 * s**2 * D)


@LENGTHS
def test_encoding_the_first_token_up_to_the_last_feed_forward_network(backbone: DistilBertBackbone, s: int) -> None:
    cost = cost_per_text(model_of(backbone, ClsPooling(D), RECIPE), s)
    assert cost.encode == pytest.approx(s * (5 * (24 * D**2 + 4 * s * D) + 4 * D**2) + 4 * D**2 + 4 * s * D)


class Plain(DistilBertBackbone):
    """A DistilBERT that cannot compute the first token alone."""

    def stages(self) -> Sequence[topwork.Stage]:
        return [dataclasses.replace(stage, run_first_token=None) for stage in super().stages()]


@LENGTHS
def test_without_a_step_for_the_first_token_the_last_attention_costs_as_for_all(s: int) -> None:
    plain = make_backbone(Plain)
    cost = cost_per_text(model_of(plain, ClsPooling(D), ("nothing",)), s)
    assert cost.encode == pytest.approx(layers(5, s) + s * (8 * D**2 + 4 * s * D) + 16 * D**2)


@LENGTHS
def test_training_one_vector_for_each_text(backbone: DistilBertBackbone, s: int) -> None:
    assert cost_per_text(model_of(backbone, ClsPooling(D), RECIPE), s).train == pytest.approx(40 * D**2 + HEADS)


@LENGTHS
def test_training_one_vector_for_each_token(backbone: DistilBertBackbone, s: int) -> None:
    assert cost_per_text(model_of(backbone, MeanPooling(D), RECIPE), s).train == pytest.approx(s * 40 * D**2 + HEADS)


@LENGTHS
@pytest.mark.parametrize("pooling", [ClsPooling(D), MeanPooling(D)])
def test_training_without_keeping_anything(backbone: DistilBertBackbone, pooling: Pooling, s: int) -> None:
    cost = cost_per_text(model_of(backbone, pooling, RECIPE), s)
    assert cost.train_uncached == pytest.approx(s * (144 * D**2 + 24 * s * D) + 24 * D**2 * s + HEADS)


@pytest.mark.parametrize(
    ("pooling", "s", "ratio"),
    [
        (ClsPooling(D), 16, 65),
        (ClsPooling(D), 128, 528),
        (ClsPooling(D), 512, 2261),
        (MeanPooling(D), 16, 4.20),
        (MeanPooling(D), 128, 4.30),
        (MeanPooling(D), 512, 4.60),
    ],
)
def test_what_keeping_activations_saves(backbone: DistilBertBackbone, pooling: Pooling, s: int, ratio: float) -> None:
    cost = cost_per_text(model_of(backbone, pooling, RECIPE), s)
    assert cost.train_uncached / cost.train == pytest.approx(ratio, rel=0.01)


@LENGTHS
@pytest.mark.parametrize("pooling", [ClsPooling(D), MeanPooling(D)])
def test_with_all_frozen_only_the_heads_cost_in_training(
    backbone: DistilBertBackbone, pooling: Pooling, s: int
) -> None:
    cost = cost_per_text(model_of(backbone, pooling, ("nothing",)), s)
    first_token = layers(5, s) + attention_from_first_token(s) + 16 * D**2
    assert cost.encode == pytest.approx(first_token if pooling.reads_first_token_only else layers(6, s))
    assert cost.train == pytest.approx(HEADS)
    assert cost.train_uncached == pytest.approx(layers(6, s) + HEADS)


@LENGTHS
def test_with_nothing_frozen_a_step_costs_three_forward_passes(backbone: DistilBertBackbone, s: int) -> None:
    cost = cost_per_text(model_of(backbone, ClsPooling(D), ("",)), s)
    assert cost.encode == 0
    assert cost.train == cost.train_uncached == pytest.approx(3 * layers(6, s) + HEADS)


@LENGTHS
def test_gradients_flow_through_all_layers_above_the_first_that_trains(backbone: DistilBertBackbone, s: int) -> None:
    cost = cost_per_text(model_of(backbone, MeanPooling(D), ("layer.4.ffn.lin1",)), s)
    forward = s * 16 * D**2 + layers(1, s)
    weights = s * 8 * D**2  # of the one layer that trains
    inputs = s * (8 * D**2 + 24 * D**2 + 8 * s * D)  # of the layer after it, and of all of the last transformer layer
    assert cost.encode == pytest.approx(layers(4, s) + s * (8 * D**2 + 4 * s * D))
    assert cost.train == pytest.approx(forward + weights + inputs + HEADS)


@LENGTHS
def test_a_norm_that_trains_needs_no_gradient_below_it(backbone: DistilBertBackbone, s: int) -> None:
    cost = cost_per_text(model_of(backbone, ClsPooling(D), ("layer.5.output_layer_norm",)), s)
    assert cost.train == pytest.approx(16 * D**2 + HEADS)


def test_the_norm_after_attention_needs_no_gradient_of_attention(backbone: DistilBertBackbone) -> None:
    cost = cost_per_text(model_of(backbone, MeanPooling(D), ("layer.5.sa_layer_norm",)), 512)
    assert cost.train == pytest.approx(layers(1, 512) + 512 * 16 * D**2 + HEADS)


def test_one_head_costs_six_operations_for_each_weight(backbone: DistilBertBackbone) -> None:
    model = model_of(backbone, ClsPooling(D), ("nothing",))
    model.heads.pop("two")
    weights = [m.weight.numel() for m in model.heads.modules() if isinstance(m, nn.Linear)]
    assert cost_per_text(model, 128).train == 6 * sum(weights) == HEADS / 2
