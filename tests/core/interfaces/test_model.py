"""What freeze strategies and optimizer groupings may read is what the engine's model has."""

import pytest
import torch

from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.model import Model
from topwork.testing import tiny_model
from topwork.testing.tiny import WeightedMean

#: A type checker holds the model to the protocol here.
MODEL: Model = tiny_model(WeightedMean())


@pytest.mark.parametrize("name", ["backbone", "pooling", "heads", "named_parameters"])
def test_the_model_has_what_the_protocol_names(name: str) -> None:
    assert name in vars(Model)
    assert getattr(MODEL, name) is not None


def test_every_parameter_is_one_of_the_backbone_the_pooling_or_a_head() -> None:
    names = [name for name, _ in MODEL.named_parameters()]
    starts = ("backbone.", "pooling.", "heads.animal.", "heads.mood.")
    assert all(name.startswith(starts) for name in names)
    assert all(any(name.startswith(start) for name in names) for start in starts)
    assert len(set(names)) == len(names)


def test_behind_the_first_segment_names_are_those_of_the_part_itself() -> None:
    names = {name for name, _ in MODEL.named_parameters()}
    parts = {"backbone": MODEL.backbone, "pooling": MODEL.pooling, "heads": MODEL.heads}
    assert names == {f"{part}.{name}" for part, module in parts.items() for name, _ in module.named_parameters()}


def test_a_parameter_that_two_parts_share_is_yielded_once() -> None:
    model = tiny_model()
    assert isinstance(model, MultiTaskModel)
    model.heads["mood"].weight = model.heads["animal"].weight
    names = [name for name, _ in model.named_parameters() if name.endswith(".weight") and name.startswith("heads.")]
    assert names == ["heads.animal.weight"]
    assert torch.equal(model.heads["mood"].weight, model.heads["animal"].weight)
