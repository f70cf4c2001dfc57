"""The parts of a head neither disturb each other nor meet tensors of another device."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.evaluation.estimates import measure
from topwork.engine.model.checked_head import check_types, checked_head, denominator_of
from topwork.engine.model.head_checks import check_parts
from topwork.errors import PluginError
from topwork.interfaces.head import Decoded, Head, Metric
from topwork.interfaces.labels import NO_LABEL, Classes, WordLabels
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.tagging import TaggingConfig

LABELS = Classes(("no", "yes"))
CPU = torch.device("cpu")


def checked(**parts: object) -> Head:
    whole = {
        "module": nn.Linear(3, 2),
        "loss": nn.functional.cross_entropy,
        "decode": decode_logits(LABELS),
        "metrics": class_metrics(2),
    }
    head = Head(**whole | parts)  # type: ignore[arg-type]  # of many types
    return checked_head(head, ClassificationConfig(), LABELS, where="here")


def test_what_a_metric_writes_into_its_inputs_no_other_reads() -> None:
    def spoil(outputs: Tensor, targets: Tensor) -> Tensor:
        outputs.numpy()[:] = 0
        targets.zero_()
        return torch.tensor(0.0)

    outputs, targets = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 1])
    head = checked(metrics=[Metric("spoil", spoil), *class_metrics(2)])
    values, failures = measure({"mood": head}, {"mood": outputs}, {"mood": targets}, device=CPU)
    assert values["mood/accuracy"] == 1.0
    assert not failures


def test_the_loss_is_computed_on_the_models_device_and_all_else_on_the_cpu() -> None:
    met: list[str] = []

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weights", torch.ones(2))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            met.extend([outputs.device.type, targets.device.type, str(self.get_buffer("weights").device)])
            return torch.tensor(0.5)

    def where(outputs: Tensor, targets: Tensor) -> Tensor:
        assert outputs.device == targets.device == CPU
        return torch.tensor(1.0)

    head = checked(loss=Weighted(), metrics=[Metric("where", where)])
    measure({"m": head}, {"m": torch.randn(3, 2)}, {"m": torch.arange(3) % 2}, device=torch.device("meta"))
    assert met == ["meta"] * 3


def test_a_metric_that_fails_is_not_a_number_and_says_why() -> None:
    def undefined(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("only one class present")

    head = checked(metrics=[Metric("area", undefined)])
    outputs, targets = {"m": torch.randn(3, 2)}, {"m": torch.arange(3) % 2}
    values, failures = measure({"m": head}, outputs, targets, device=CPU)
    assert values["m/area"] != values["m/area"]
    assert failures["m/area"].endswith("metric 'area' failed: ValueError: only one class present")


def test_counts_are_combined_to_one_number() -> None:
    def count(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([outputs.argmax(1) == targets, targets >= 0], dim=1).float()

    ratio = Metric("ratio", count, combine=lambda counts: counts[0] / counts[1])
    outputs, targets = {"m": torch.eye(2)[[0, 1, 1]]}, {"m": torch.tensor([0, 1, 0])}
    values, _ = measure({"m": checked(metrics=[ratio])}, outputs, targets, device=CPU)
    assert values["m/ratio"] == pytest.approx(2 / 3)
    wrong = [
        (
            Metric("ratio", lambda outputs, targets: torch.ones(2), combine=lambda counts: counts[0]),
            r"metric 'ratio' must give counts for each of 3 texts, shape \(3, K\), which it combines, got shape \(2,\)",
        ),
        (
            Metric("ratio", count, combine=lambda counts: counts),
            r"metric 'ratio' must combine counts to one number, got",
        ),
    ]
    for metric, message in wrong:
        _, failures = measure({"m": checked(metrics=[metric])}, outputs, targets, device=CPU)
        assert re.search(message, failures["m/ratio"])


WORDS = WordLabels(("NOUN", "VERB"))


def tagger(**parts: Any) -> Head:
    head = dataclasses.replace(TaggingConfig(hidden=()).build(3, WORDS), **parts)
    return checked_head(head, TaggingConfig(), WORDS, where="here")


@pytest.mark.parametrize(
    ("decoded", "message"),
    [
        ([("NOUN",)] * 2, "decode must give 2 labels for a text of 2 words, got 1"),
        (["NOUN"] * 2, "decode must give labels that are tuples of names, got 'NOUN' of type str"),
        ([("NOUN", "ADJ")] * 2, "decode must give labels that are classes, got 'ADJ'"),
        ([("NOUN", "VERB")], "decode must give 2 labels for 2 texts, got 1"),
    ],
)
def test_every_word_has_a_class(decoded: list[Any], message: str) -> None:
    with pytest.raises(PluginError) as caught:
        tagger(decode=lambda outputs: Decoded(decoded, outputs.softmax(2))).decode(torch.randn(2, 2, 2))
    assert str(caught.value).endswith(message)


def test_the_probabilities_of_words_are_those_of_each() -> None:
    labels = [("NOUN", "VERB")] * 2
    with pytest.raises(PluginError, match=r"decode must give probabilities \(2, 2, 2\), got \(2, 2\)$"):
        tagger(decode=lambda outputs: Decoded(labels, outputs[0].softmax(1))).decode(torch.randn(2, 2, 2))
    with pytest.raises(PluginError, match=r"the probabilities of a text must sum to 1"):
        tagger(decode=lambda outputs: Decoded(labels, torch.ones(2, 2, 2))).decode(torch.randn(2, 2, 2))


def test_the_loss_of_words_divides_by_those_with_a_label() -> None:
    targets = torch.tensor([[0, NO_LABEL, 1], [NO_LABEL, NO_LABEL, NO_LABEL]])
    assert denominator_of(tagger(), targets, CPU) == 2.0
    assert denominator_of(tagger(denominator=lambda targets: torch.tensor(7.0)), targets, CPU) == 7.0


def test_what_sets_buffers_after_training_is_tried_before() -> None:
    def fail(outputs: Tensor, targets: Tensor) -> None:
        raise ValueError("boom")

    with pytest.raises(PluginError, match=r"tune failed: ValueError: boom$"):
        check_parts(checked(tune=fail), ClassificationConfig(), 3, LABELS, where="here")
    head = checked()
    for name, part in (("denominator", 3), ("tune", "no")):
        object.__setattr__(head, name, part)  # past the check of types that tests have
    with pytest.raises(PluginError, match=r"^denominator must be callable, got 3\ntune must be callable, got 'no'$"):
        check_types(head)
