"""Adapters train beside frozen weights, and are merged into them in the end."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.preparation_cache import PreparationCache
from topwork.interfaces.backbone import Backbone
from topwork.lab.runs import train
from topwork.testing import tiny_model
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.lora import LoraConfig

IDS, MASK = torch.arange(3, 21).view(3, 6), torch.ones(3, 6, dtype=torch.bool)
LORA = "freeze={kind: lora, rank: 2, layers: 1}"
OFF = "tracking.enabled=false"


def names(backbone: Backbone) -> list[str]:
    return [name for name, _ in backbone.named_parameters()]


def trained_at_random(backbone: Backbone) -> None:
    """Change the adapters as training does."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if ".lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)


def test_the_adapters_alone_train() -> None:
    model = tiny_model()
    before = names(model.backbone)
    LoraConfig(rank=2).adapt(model.backbone)
    found = LoraConfig(rank=2).trainable(model, 1)
    assert len(found) == 2 * 2 * 2  # two matrices for two linear layers of two
    assert all(".lora_" in name for name in found)
    assert len(names(model.backbone)) == len(before) + len(found)


def test_those_of_the_last_layers_leave_the_others_in_the_prefix() -> None:
    model = tiny_model()
    LoraConfig(layers=1).adapt(model.backbone)
    model.set_trainable(LoraConfig(layers=1).trainable(model, 1))
    assert model.cut.stage == 4


def test_patterns_name_the_linear_layers() -> None:
    backbone = MiniLmConfig().build()
    LoraConfig(targets=("q_lin", "v_lin"), layers=2).adapt(backbone)
    adapted = {name.split(".lora_")[0] for name in names(backbone) if ".lora_" in name}
    assert sorted(adapted) == [
        f"transformer.layer.{layer}.attention.{linear}" for layer in (4, 5) for linear in ("q_lin", "v_lin")
    ]


def test_merged_adapters_give_what_they_gave_beside_the_weights() -> None:
    backbone = MiniLmConfig().build().eval()
    before = names(backbone)
    LoraConfig(rank=4, alpha=8).adapt(backbone)
    trained_at_random(backbone)
    beside = backbone.eval()(IDS, MASK)
    LoraConfig().finish(backbone)
    assert names(backbone) == before
    merged = backbone(IDS, MASK)
    torch.testing.assert_close(merged, beside, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, MiniLmConfig().build().eval()(IDS, MASK), atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, "layers must be at most 2, the layers of the backbone, but is 3"),
        ({"targets": ("ffn.9",)}, "'ffn.9' names no linear layer of the layers that are adapted"),
        ({"dropout": 1.0}, "dropout must be less than 1, but is 1"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        LoraConfig(**settings).adapt(tiny_model().backbone)


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"^adapters need PEFT: pip install 'topwork\[lora\]'"):
        LoraConfig().adapt(tiny_model().backbone)


@pytest.mark.slow
def test_a_saved_model_has_the_merged_weights_and_needs_no_peft(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small(LORA, OFF), output=tmp_path / "model")
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = load_model(tmp_path / "model")
    assert not [name for name in names(loaded.model.backbone) if "lora" in name or "base_layer" in name]
    assert loaded.predict(["a text"])[0].keys() == loaded.labels.keys()


@pytest.mark.slow
def test_training_gives_the_same_bits_with_the_store_and_without(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    settings = [LORA, OFF, "pooling={kind: mean}", "training.epochs=3"]
    weights: list[dict[str, torch.Tensor]] = []
    for number, store in enumerate(("off", "require", "require")):
        train(small(*settings, f"training.store={store}"), output=tmp_path / str(number))
        weights.append(load_model(tmp_path / str(number)).model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(weights[0].values(), weights[1].values(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(weights[0].values(), weights[2].values(), strict=True))


@pytest.mark.slow
def test_no_training_has_the_adapters_of_the_one_before(installed: Path) -> None:
    cache = PreparationCache()
    prepare: Callable[..., Any] = lambda *settings: cache.prepare(small(OFF, *settings))  # noqa: E731
    plain = names(prepare().model.backbone)
    first = prepare(LORA)
    trained_at_random(first.model.backbone)
    again = prepare(LORA)
    before = {name: one.clone() for name, one in prepare(LORA).model.backbone.named_parameters()}
    assert {
        name: torch.equal(one, before[name]) for name, one in again.model.backbone.named_parameters()
    } == dict.fromkeys(before, True)
    assert names(prepare().model.backbone) == plain
