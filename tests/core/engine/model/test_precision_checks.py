"""What cannot run in bfloat16 is refused before anything is encoded; a processor that is slower with it is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from small_encoders import write_encoder
from topwork.engine.model.mixed_precision import bfloat16_instructions
from topwork.engine.model.precision_checks import check_precision, warn_if_slow
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment, Training
from topwork.testing import TinyBackboneConfig
from topwork_plugins.backbones.auto import AutoConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig

Make = Callable[..., Experiment]

WITHOUT, WITH = (
    {"architecture": "x86_64", "avx2": True, "avx512_bf16": False},
    {"architecture": "x86_64", "amx_bf16": True},
)


def test_it_is_refused_where_nothing_is_frozen(make: Make) -> None:
    everything = AllExceptConfig(patterns=("*",))
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(backbone=TinyBackboneConfig(precision="bfloat16"), freeze=everything))
    assert str(caught.value) == (
        "backbone.precision: bfloat16 is the precision of the frozen part, but the first stage trains, so nothing is "
        "frozen; leave it out, or see training.precision"
    )


def test_weights_outside_linear_layers_are_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(backbone=TinyBackboneConfig(precision="bfloat16")))
    assert str(caught.value) == (
        "backbone.precision: bfloat16 needs weights in torch.nn.Linear, whose rows can be made independent of each "
        "other; layer.0.attention.in_proj_weight is in MultiheadAttention; use float32"
    )


def test_an_encoder_that_fails_in_bfloat16_is_refused(tmp_path: Path) -> None:
    backbone = AutoConfig(model=str(write_encoder(tmp_path / "model", "deberta")), max_length=40).build()
    with pytest.raises(ConfigurationError) as caught:
        check_precision("bfloat16", backbone, frozen=True, where="backbone.precision")
    assert str(caught.value) == (
        "backbone.precision: this encoder does not run in bfloat16: value cannot be converted to type c10::BFloat16 "
        "without overflow; use float32"
    )


class Summing(torch.nn.Linear):
    """A layer of which a row depends on the rows beside it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + input.mean()


def test_an_encoder_whose_bits_depend_on_other_texts_is_refused() -> None:
    backbone = MiniLmConfig(max_length=16).build()
    layer = next(module for name, module in backbone.named_modules() if name.endswith("ffn.lin2"))
    layer.__class__ = Summing
    with pytest.raises(ConfigurationError) as caught:
        check_precision("bfloat16", backbone, frozen=True, where="backbone.precision")
    assert str(caught.value) == (
        "backbone.precision: in bfloat16 this encoder gives a text other numbers where others are encoded with it; use "
        "float32"
    )


def test_an_older_torch_that_does_not_know_the_processor_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16_instructions() == []
    assert warn_if_slow("bfloat16", Training(device="cpu")) == []


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "warned"),
    [
        ("bfloat16", "cpu", WITHOUT, True),
        ("bfloat16", "cpu", WITH, False),
        ("bfloat16", "cpu", WITHOUT | {"avx512_bf16": True}, True),
        ("float32", "cpu", WITHOUT, False),
        ("bfloat16", "cpu", {"architecture": "aarch64"}, False),
    ],
)
def test_a_processor_that_is_slower_with_it_is_named(
    precision: Any, device: Any, capabilities: dict[str, object], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    told = "this processor has no AMX for bfloat16: backbone.precision: bfloat16 is slower here than float32"
    assert warn_if_slow(precision, Training(device=device)) == ([told] if warned else [])


def test_a_preparation_warns_of_such_a_processor(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITHOUT)
    prepared = prepare(make(backbone=MiniLmConfig(max_length=16, precision="bfloat16")))
    assert [warning for warning in prepared.warnings if "no AMX" in warning]
