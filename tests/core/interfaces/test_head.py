"""The parts of a head are plain values with the defaults that most heads want."""

import dataclasses

import pytest
import torch
from torch import nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.interfaces.head import Head, HeadConfig, Metric
from topwork.interfaces.labels import Classes

LABELS = Classes(("no", "yes"))


def make_head() -> Head:
    return Head(nn.Linear(3, 2), nn.functional.cross_entropy, decode_logits(LABELS), class_metrics(2))


def test_a_head_draws_nothing_unless_it_says_otherwise() -> None:
    assert list(make_head().figures) == []


def test_greater_is_better_unless_a_metric_says_otherwise() -> None:
    assert Metric("accuracy", lambda outputs, targets: torch.tensor(1.0)).greater_is_better


def test_the_parts_of_a_head_cannot_be_exchanged() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_head().loss = nn.functional.mse_loss  # type: ignore[misc]  # what is tested


def test_label_spaces_of_the_same_names_are_equal() -> None:
    assert Classes(("no", "yes")) == LABELS
    assert Classes(("yes", "no")) != LABELS


def test_the_settings_of_a_head_build_it() -> None:
    assert HeadConfig.__abstractmethods__ == {"build"}
