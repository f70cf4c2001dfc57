"""A head that differs from a shipped one in little is a few lines."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import topwork
from small_experiment import QUICKSTART, SMALL
from topwork import heads
from topwork.plugin_file import read_plugin_file
from topwork.registry import discover
from topwork.testing import HeadContract

F2 = """
import dataclasses
from typing import Literal

import topwork
from topwork.heads import ClassificationConfig


def in_the_first_two(outputs, targets):  # (N, C), (N,) -> (N,)
    return (outputs.topk(2).indices == targets[:, None]).any(dim=1).float()


class TopTwoConfig(ClassificationConfig):
    kind: Literal["top_two"] = "top_two"

    def build(self, width, labels):
        head = super().build(width, labels)
        return dataclasses.replace(head, metrics=[*head.metrics, topwork.Metric("top_two", in_the_first_two)])


@topwork.hookimpl
def register_heads(register):
    register(TopTwoConfig)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "top_two.py"
    path.write_text(F2)
    return path


def test_every_shipped_head_is_there() -> None:
    shipped = {plugin.config for plugin in discover().plugins() if plugin.interface == "head"}
    assert {value for name, value in vars(heads).items() if name.endswith("Config")} == shipped


def test_a_metric_more_keeps_the_settings_and_the_rest(file: Path, installed: Path, tmp_path: Path) -> None:
    settings = [*SMALL, f"plugins=[{file}]", "tracking.enabled=false"]
    head = "tasks.category.head={kind: top_two, dropout: 0.1, class_weights: balanced}"
    result = topwork.train(topwork.load_experiment(QUICKSTART, [*settings, head]), output=tmp_path / "model")
    assert {"category/accuracy", "category/top_two"} <= result.estimates.keys()
    assert result.estimates["category/top_two"].value >= result.estimates["category/accuracy"].value


def test_it_keeps_the_contract(file: Path) -> None:
    config: Any = discover([read_plugin_file(file)]).heads.plugins["top_two"].config

    class TestTopTwo(HeadContract):
        plugin_file = file
        labels = topwork.Classes(("a", "b", "c"))

    TestTopTwo.config = config()
    checks = [name for name in dir(TestTopTwo) if name.startswith("test_")]
    assert len(checks) > 20
    for name in checks:
        case = TestTopTwo()
        case.setup_method()
        getattr(case, name)()


def test_a_loss_of_ones_own_takes_the_place_of_the_shipped_one() -> None:
    def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        chosen = torch.nn.functional.one_hot(targets, outputs.shape[1])
        return (outputs.softmax(dim=1) - chosen).square().sum(dim=1).mean()

    shipped = heads.ClassificationConfig().build(8, topwork.Classes(("a", "b")))
    changed = dataclasses.replace(shipped, loss=squared)
    assert changed.loss(torch.tensor([[9.0, -9.0]]), torch.tensor([0])).item() < 1e-6
