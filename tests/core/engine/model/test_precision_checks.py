"""What cannot run in bfloat16 is refused before anything is encoded; a processor that is slower with it is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from small_encoders import write_encoder
from topwork.engine.model import precision_checks
from topwork.engine.model.mixed_precision import bfloat16_instructions
from topwork.engine.model.precision_checks import check_precision, seconds_of_product, warn_if_slow
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment, Training
from topwork.testing import TinyBackboneConfig
from topwork_plugins.backbones.auto import AutoConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig

Make = Callable[..., Experiment]


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


def test_an_older_torch_that_does_not_know_the_processor_names_no_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16_instructions() == []


@pytest.mark.parametrize(
    ("precision", "seconds", "warned"), [("bfloat16", 1.6, True), ("bfloat16", 0.5, False), ("float32", 1.6, False)]
)
def test_where_products_in_bfloat16_take_longer_it_is_said(
    make: Make, precision: Any, seconds: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {torch.bfloat16: seconds, torch.float32: 1.0}
    monkeypatch.setattr(precision_checks, "seconds_of_product", taken.__getitem__)
    told = (
        "on this processor a matrix product in bfloat16 takes 1.6 times as long as one in float32, so "
        "backbone.precision: bfloat16 is slower here"
    )
    assert warn_if_slow(precision, Training(device="cpu")) == ([told] if warned else [])
    prepared = prepare(make(backbone=MiniLmConfig(max_length=16, precision=precision)))
    assert (told in prepared.warnings) == warned


def test_a_product_is_timed_once_so_that_a_run_says_one_thing() -> None:
    first = seconds_of_product(torch.bfloat16)
    assert first > 0
    assert seconds_of_product(torch.bfloat16) == first
