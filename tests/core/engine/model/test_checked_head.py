"""The parts of a head neither disturb each other nor meet tensors of another device."""

import torch
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.evaluation.estimates import measure
from topwork.engine.model.checked_head import checked_head
from topwork.interfaces.head import Head, Metric
from topwork.interfaces.labels import Classes
from topwork_plugins.heads.classification import ClassificationConfig

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
