"""The numbers of the head for several classes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from sklearn.utils.class_weight import compute_class_weight
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


def test_the_metrics_are_accuracy_macro_f1_and_matthews_correlation() -> None:
    head = ClassificationConfig().build(8, CLASSES)
    found = {metric.name: metric.compute(LOGITS, TARGETS).mean().item() for metric in head.metrics}
    matthews = matthews_corrcoef(TARGETS.numpy(), LOGITS.argmax(dim=1).numpy())
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": (0.5 + 0.0 + 1.0) / 3, "matthews": matthews})


def test_balanced_classes_weigh_what_scikit_learn_says() -> None:
    rows = np.array([0] * 50 + [1] * 20 + [2] * 5)
    head = ClassificationConfig(class_weights="balanced").build(8, topwork.Classes(("a", "b", "c"), counts=(50, 20, 5)))
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=rows)).float()
    wanted = nn.functional.cross_entropy(LOGITS, TARGETS, weights)
    torch.testing.assert_close(head.loss(LOGITS, TARGETS), wanted)
    assert head.denominator is not None
    torch.testing.assert_close(head.denominator(TARGETS), weights[TARGETS].sum())


def test_weights_may_be_given_for_every_class() -> None:
    head = ClassificationConfig(class_weights={"b": 3.0, "a": 1.0, "c": 0.5}).build(8, CLASSES)
    wanted = nn.functional.cross_entropy(LOGITS, TARGETS, torch.tensor([1.0, 3.0, 0.5]))
    torch.testing.assert_close(head.loss(LOGITS, TARGETS), wanted)


@pytest.mark.parametrize(
    ("weights", "labels", "message"),
    [
        ({"a": 1.0, "d": 2.0}, CLASSES, "class_weights must name every class (a, b, c); see b, c, d"),
        (
            "balanced",
            topwork.Classes(("a", "b"), counts=(3, 0)),
            "class_weights: balanced needs training rows of every class; none is b",
        ),
        (
            "balanced",
            topwork.Distribution(("a", "b")),
            "class_weights are for rows of one class each, and these are shares of classes",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: object, labels: topwork.LabelSpace, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ClassificationConfig(class_weights=weights).build(8, labels)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "setting", [{"class_weights": {"a": 0.0}}, {"class_weights": "even"}, {"label_smoothing": 1.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ClassificationConfig(**setting)


def test_smoothed_labels_are_those_of_torch() -> None:
    head = ClassificationConfig(label_smoothing=0.2).build(8, CLASSES)
    wanted = nn.functional.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2)
    torch.testing.assert_close(head.loss(LOGITS, TARGETS), wanted)


def test_shares_of_classes_are_learnt_and_measured_by_the_largest() -> None:
    head = ClassificationConfig().build(8, topwork.Distribution(("a", "b", "c")))
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(head.loss(LOGITS, shares), -(shares * LOGITS.log_softmax(dim=1)).sum(dim=1).mean())
    found = {metric.name: metric.compute(LOGITS, shares).mean().item() for metric in head.metrics}
    assert found["accuracy"] == 0.5
    assert found["cross_entropy"] == pytest.approx(head.loss(LOGITS, shares).item())
    assert list(head.figures) == []


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
