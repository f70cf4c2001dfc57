"""The numbers of the head for two classes."""

import pytest
import torch

import topwork
from topwork_plugins.heads.binary import BinaryConfig

CLASSES = topwork.Classes(("neg", "pos"))
LOGITS = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
TARGETS = torch.tensor([1, 0, 0, 1])


def test_the_loss_is_binary_cross_entropy_on_the_logit() -> None:
    head = BinaryConfig().build(8, CLASSES)
    second = LOGITS[:, 0].double().sigmoid()
    wanted = -(TARGETS * second.log() + (1 - TARGETS) * (1 - second).log()).mean()
    torch.testing.assert_close(head.loss(LOGITS, TARGETS).double(), wanted)


def test_the_loss_is_that_of_two_logits_of_which_the_first_is_0() -> None:
    head = BinaryConfig().build(8, CLASSES)
    both = torch.cat([torch.zeros_like(LOGITS), LOGITS], dim=1)
    torch.testing.assert_close(head.loss(LOGITS, TARGETS), torch.nn.functional.cross_entropy(both, TARGETS))


def test_the_loss_of_an_extreme_logit_is_finite() -> None:
    head = BinaryConfig().build(8, CLASSES)
    assert head.loss(torch.tensor([[-1000.0]]), torch.tensor([1])).item() == pytest.approx(1000.0)


def test_a_logit_above_0_means_the_second_class() -> None:
    decoded = BinaryConfig().build(8, CLASSES).decode(LOGITS)
    assert decoded.labels == ["pos", "neg", "pos", "neg"]
    torch.testing.assert_close(decoded.probabilities[:, 1], LOGITS[:, 0].sigmoid())
    torch.testing.assert_close(decoded.probabilities.sum(dim=1), torch.ones(4))


def test_a_tie_goes_to_the_first_class_as_the_probabilities_do() -> None:
    decoded = BinaryConfig().build(8, CLASSES).decode(torch.zeros(1, 1))
    assert decoded.labels == ["neg"]
    assert decoded.probabilities.tolist() == [[0.5, 0.5]]


def test_the_metrics_are_accuracy_macro_f1_and_matthews_correlation() -> None:
    head = BinaryConfig().build(8, CLASSES)
    found = {metric.name: metric.compute(LOGITS, TARGETS).mean().item() for metric in head.metrics}
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": 0.5, "matthews": 0.0})


@pytest.mark.parametrize(
    ("names", "words"), [(("a",), "have 1: a;"), (("a", "b", "c"), "have 3: a, b, c;")], ids=["one", "three"]
)
def test_any_number_of_classes_but_2_is_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        BinaryConfig().build(8, topwork.Classes(names))
    wanted = f"a binary head needs 2 classes, but the training rows {words} use {{kind: classification}}"
    assert str(caught.value) == wanted


def test_the_reference_recipes_head_has_its_published_size() -> None:
    head = BinaryConfig().build(768, CLASSES)
    assert sum(parameter.numel() for parameter in head.module.parameters()) == 82_001
