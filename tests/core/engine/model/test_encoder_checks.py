"""What a backbone or a pooling says wrongly of itself is found before anything is encoded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from topwork.engine.model.encoder_checks import sample
from topwork.engine.preparation import prepare
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing import TinyBackboneConfig
from topwork.testing.tiny import TinyBackbone
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.none import NoneConfig

Make = Callable[..., Experiment]


class Odd(TinyBackbone):
    """The tiny backbone with one error, in its first feed-forward network or elsewhere."""

    def __init__(self, error: str) -> None:
        super().__init__(max_length=32)
        self.error = error
        if error == "tokenizer":
            self.tokenizer = "a tokenizer of transformers"  # type: ignore[assignment]  # the error

    def stages(self) -> Sequence[Stage]:
        stages = list(super().stages())
        run = stages[2].run
        changes: dict[str, Callable[[Tensor, Tensor], Any]] = {
            "tuple": lambda h, m: (run(h, m), None),
            "width": lambda h, m: run(h, m)[..., :7],
            "noise": lambda h, m: run(h, m) + 0.1 * torch.randn_like(h),
            "mixes": lambda h, m: run(h, m) + h.mean(dim=1, keepdim=True),
            "padding": lambda h, m: run(h, m) + h.sum(dim=1, keepdim=True),
            "nan": lambda h, m: run(h, m) * math.nan,
            "in place": lambda h, m: h.add_(run(h, m)) if h.requires_grad else h + run(h, m),
            "checkpointed": lambda h, m: checkpoint(run, h, m, use_reentrant=True) if h.requires_grad else run(h, m),
            "detached": lambda h, m: run(h, m).detach(),
        }
        if self.error == "bfloat16":
            last = stages[-1].run
            stages[-1] = replace(stages[-1], run=lambda h, m: last(h, m).bfloat16(), run_first_token=None)
        if self.error in changes:
            stages[2] = replace(stages[2], run=changes[self.error], mixes_tokens=self.error == "padding")
        return stages

    def architecture(self) -> Mapping[str, Any]:
        return {"dtype": torch.float32} if self.error == "dtype" else super().architecture()

    def save(self, folder: Path) -> None:
        if self.error != "saves nothing":
            super().save(folder)


class OddBackboneConfig(TinyBackboneConfig):
    """Builds the odd backbone."""

    error: str

    def build(self) -> Backbone:
        return Odd(self.error)

    def restore(self, folder: Path) -> Backbone:
        (folder / "tokenizer.json").read_text()
        return Odd(self.error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("tokenizer", "the tokenizer must be a tokenizers.Tokenizer, got a str"),
        ("dtype", "architecture must hold texts, numbers and booleans only, but dtype is torch.float32"),
        ("tuple", r"stage layer\.0\.ffn must give a tensor, got a tuple"),
        ("width", r"stage layer\.0\.ffn must give hidden states \(2, \d+, 16\), got \(2, \d+, 7\)"),
        ("noise", r"stage layer\.0\.ffn gives other results for the same texts when it runs again"),
        (
            "mixes",
            r"stage layer\.0\.ffn (says that it does not mix tokens|gives other results)",
        ),
        ("nan", r"stage layer\.0\.ffn gives what is not a finite number"),
        ("padding", r"stage layer\.0\.ffn gives other results for a text that is padded"),
        ("saves nothing", "restore fails on what save wrote, which is nothing: FileNotFoundError"),
    ],
)
def test_a_backbone_with_an_error_is_named(make: Make, error: str, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^backbone: plugin 'tiny' of .*test_encoder_checks.py:\d+: .*{message}"):
        prepare(make(backbone=OddBackboneConfig(error=error)))


class OddPooling(Pooling):
    """A mean, with one error."""

    def __init__(self, width: int, error: str) -> None:
        super().__init__()
        self.width, self.error = width, error
        self.reads_first_token_only = error == "first"

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.error == "padding":
            return hidden.mean(dim=1)
        if self.error == "length":
            return hidden.masked_fill(~mask[:, :, None], 0.0).sum(dim=1) / hidden.shape[1]
        if self.error == "company":
            return hidden[:, 0] - hidden[:, 0].mean(dim=0)
        if self.error == "random":
            return hidden[:, 0] + torch.randn(())
        total = hidden.masked_fill(~mask[:, :, None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return total.detach() if self.error == "detached" else total


class OddPoolingConfig(PoolingConfig):
    """Builds the odd pooling."""

    kind: Literal["odd"] = "odd"
    error: str

    def build(self, width: int) -> Pooling:
        return OddPooling(width, self.error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("padding", "changes with what stands at padding"),
        ("length", "changes with the length of its padding, or with the other texts"),
        ("company", "changes with the length of its padding, or with the other texts"),
        ("random", "in eval mode the pooled vector changes from call to call"),
        ("first", "says reads_first_token_only, but the pooled vector changes with other tokens"),
        ("detached", "no gradient passes through it, so that the backbone would not be trained"),
    ],
)
def test_a_pooling_with_an_error_is_named(make: Make, error: str, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^pooling: plugin 'odd' of .*test_encoder_checks.py:\d+: .*{message}"):
        prepare(make(pooling=OddPoolingConfig(error=error)))


def test_a_stage_that_passes_no_gradient_on_is_refused_where_a_stage_before_it_trains(make: Make) -> None:
    backbone = OddBackboneConfig(error="detached")
    prepare(make(backbone=backbone))
    with pytest.raises(PluginError, match=r"^backbone: .*no gradient reaches stage embeddings, layer\.0\.attention"):
        prepare(make(backbone=backbone, freeze=NoneConfig()))


def test_gradients_are_found_through_checkpoints(make: Make) -> None:
    prepared = prepare(make(backbone=OddBackboneConfig(error="checkpointed"), freeze=NoneConfig()))
    assert {name for name, _ in prepared.model.named_parameters()} == prepared.plan.shapes.keys()
    assert all(parameter.grad is None for parameter in prepared.model.parameters())


def test_a_gradient_that_cannot_be_computed_is_told_before_anything_is_encoded(make: Make) -> None:
    with pytest.raises(PluginError, match=r"^backbone: plugin 'tiny' .*modified by an inplace operation"):
        prepare(make(backbone=OddBackboneConfig(error="in place"), freeze=NoneConfig()))


@pytest.mark.parametrize("vocabulary", [{"A": 0, "C": 1, "G": 2, "T": 3}, {"[UNK]": 0, "A": 1}])
def test_a_tokenizer_for_another_alphabet_is_tried_on_its_own_tokens(vocabulary: dict[str, int]) -> None:
    unknown = "[UNK]" if "[UNK]" in vocabulary else None
    ids, mask = sample(Tokenizer(WordLevel(vocabulary, unk_token=unknown)))
    assert ids.shape == mask.shape
    assert ids.dtype == torch.int64
    assert mask.sum(dim=1).min() > 0


def test_hidden_states_of_two_bytes_are_refused_only_where_they_train(make: Make) -> None:
    backbone = OddBackboneConfig(error="bfloat16")
    assert prepare(make(backbone=backbone, freeze=AllConfig())).plan.phases[0].cut.keeps == "pooled"
    with pytest.raises(PluginError, match=r"what trains must be of float32, but .* are of torch\.bfloat16"):
        prepare(make(backbone=backbone, freeze=NoneConfig()))
