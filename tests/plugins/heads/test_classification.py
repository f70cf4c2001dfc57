"""The numbers of the head for several classes."""

import pytest
import torch
from torch import nn

import topwork
from topwork_plugins.heads.classification import ClassificationConfig

CLASSES = topwork.Classes(("a", "b", "c"))
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0], [1.0, 4.0, 0.0], [0.5, 0.2, 0.1]])
TARGETS = torch.tensor([0, 2, 0, 1])


def test_the_loss_is_cross_entropy_on_the_logits() -> None:
    head = ClassificationConfig().build(8, CLASSES)
    wanted = -LOGITS.double().log_softmax(dim=1)[range(4), TARGETS].mean()
    torch.testing.assert_close(head.loss(LOGITS, TARGETS).double(), wanted)


def test_a_sure_and_right_answer_costs_next_to_nothing() -> None:
    head = ClassificationConfig().build(8, CLASSES)
    assert head.loss(torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([0])).item() < 1e-6


def test_labels_are_those_of_the_largest_logit() -> None:
    decoded = ClassificationConfig().build(8, CLASSES).decode(LOGITS)
    assert decoded.labels == ["a", "c", "b", "a"]
    torch.testing.assert_close(decoded.probabilities, LOGITS.exp() / LOGITS.exp().sum(dim=1, keepdim=True))


def test_the_metrics_are_accuracy_and_macro_f1() -> None:
    head = ClassificationConfig().build(8, CLASSES)
    found = {metric.name: metric.compute(LOGITS, TARGETS).mean().item() for metric in head.metrics}
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": (0.5 + 0.0 + 1.0) / 3})


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d", "e", "f")])
def test_there_is_one_output_for_each_class(names: tuple[str, ...]) -> None:
    head = ClassificationConfig().build(8, topwork.Classes(names))
    assert head.module(torch.zeros(5, 8)).shape == (5, len(names))


def test_the_reference_recipes_head_has_its_published_size() -> None:
    head = ClassificationConfig().build(768, topwork.Classes(tuple("abcdef")))
    assert sum(parameter.numel() for parameter in head.module.parameters()) == 82_256


def test_settings_reach_the_perceptron() -> None:
    head = ClassificationConfig(hidden=(4,), activation="tanh", dropout=0.5).build(8, CLASSES)
    assert isinstance(head.module, nn.Sequential)
    assert [type(module) for module in head.module] == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]


def test_a_linear_head_has_no_hidden_layer() -> None:
    head = ClassificationConfig(hidden=()).build(8, CLASSES)
    assert {name: tuple(p.shape) for name, p in head.module.named_parameters()} == {"0.weight": (3, 8), "0.bias": (3,)}
