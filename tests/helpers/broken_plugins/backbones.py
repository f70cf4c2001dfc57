"""Backbones that break one rule each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

import topwork
from broken_plugins import Broken
from topwork.testing.tiny import TinyBackbone

Run = Callable[[Tensor, Tensor], Tensor]


class OddBackbone(TinyBackbone):
    """The tiny backbone, or one with something wrong."""

    def __init__(self, broken: str, causal: bool) -> None:
        super().__init__(max_length=32)
        self.causal = causal
        self.broken = broken
        self.calls = 0
        if broken == "says that it is wider":
            self.width += 1
        if broken == "has float64 weights":
            self.double()
        if broken == "pads texts":
            self.tokenizer.enable_padding()

    def stages(self) -> Sequence[topwork.Stage]:
        stages = [replace(stage, run_first_token=_first_of(stage)) for stage in super().stages()]
        first, attention, feed_forward, *others = stages
        if self.broken == "has a module in two stages":
            first = replace(first, modules=(*first.modules, attention.modules[0]))
        if self.broken == "has two stages of one name":
            first = replace(first, name=attention.name)
        if self.broken == "counts layers from 1":
            others = [replace(stage, layer=2) for stage in others]
        if self.causal:
            attention = replace(attention, run=lambda hidden, mask: _attend_to_the_past(layer_of(self), hidden))
            attention = replace(attention, run_first_token=_first_of(attention))
        if self.broken == "sees padding":
            attention = replace(attention, run=lambda h, mask: layer_of(self).attend(h, torch.ones_like(mask)))
            attention = replace(attention, run_first_token=_first_of(attention))
        if self.broken == "says that its attention mixes nothing":
            attention = replace(attention, mixes_tokens=False)
        if self.broken == "has a wrong first token":
            attention = replace(attention, run_first_token=lambda h, mask: layer_of(self).attend(h, mask)[:, 1:2])
        if self.broken == "doubles gradients right of a cut":
            step = feed_forward.run
            feed_forward = replace(feed_forward, run=lambda h, m: _doubled(step(h, m), not h.requires_grad))
        if self.broken in _CHANGES:
            change = _CHANGES[self.broken]
            run = feed_forward.run
            feed_forward = replace(feed_forward, run=lambda h, m: change(self, run(h, m)), run_first_token=None)
        return [first, attention, feed_forward, *others]

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        hidden = super().forward(token_ids, mask)
        return hidden + 0.01 if self.broken == "has another forward pass" else hidden

    def to_transformers(self) -> Any:
        return Original(self) if self.broken == "differs from its original" else super().to_transformers()

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        shape: Any = (4, 4)
        return {"shape": shape} if self.broken == "has an architecture with a tuple" else super().architecture()


class Original:
    """What a backbone says that it re-expresses, which it does not."""

    def __init__(self, backbone: OddBackbone) -> None:
        self.backbone = backbone

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.backbone(input_ids, attention_mask.bool()) + 0.01)


def layer_of(backbone: OddBackbone) -> Any:
    return backbone.layer[0]


def _first_of(stage: topwork.Stage) -> Run | None:
    return (lambda hidden, mask: stage.run(hidden, mask)[:, :1]) if stage.mixes_tokens else None


def _attend_to_the_past(layer: Any, hidden: Tensor) -> Tensor:
    future = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(diagonal=1)
    attended, _ = layer.attention(hidden, hidden, hidden, attn_mask=future, need_weights=False)
    normed: Tensor = layer.attention_norm(hidden + attended)
    return normed


def _doubled(hidden: Tensor, doubled: bool) -> Tensor:
    """The same hidden states, whose gradients may be doubled."""
    return hidden + (hidden - hidden.detach()) if doubled else hidden


def _count(backbone: OddBackbone, hidden: Tensor) -> Tensor:
    backbone.calls += 1
    return hidden + 1e-6 * backbone.calls


#: What is done to the result of the first feed-forward network.
_CHANGES: dict[str, Callable[[OddBackbone, Tensor], Tensor]] = {
    "changes from call to call": _count,
    "detaches hidden states": lambda _, hidden: hidden.detach(),
    "looks at the token before": lambda _, hidden: hidden + 0.1 * nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1],
    "looks at positions": lambda _, hidden: hidden + 0.1 * torch.arange(hidden.shape[1])[:, None],
    "looks at the length": lambda _, hidden: hidden + 0.1 / hidden.shape[1],
    "looks at the size of the batch": lambda _, hidden: hidden + 1e-6 * len(hidden),
}


class OddBackboneConfig(topwork.BackboneConfig):
    """Settings of a backbone that may break a rule; a causal one keeps them, for all that no token sees a later one."""

    kind: Literal["odd"] = "odd"
    broken: str = ""
    causal: bool = False

    def build(self) -> topwork.Backbone:
        return OddBackbone(self.broken, self.causal)

    def restore(self, folder: Path) -> topwork.Backbone:
        restored = OddBackbone(self.broken, self.causal)
        if self.broken == "forgets to truncate":
            restored.tokenizer.no_truncation()
        return restored


BROKEN = [
    Broken(
        "test_every_parameter_belongs_to_exactly_one_stage",
        OddBackboneConfig(broken="has a module in two stages"),
        topwork.PluginError,
    ),
    Broken("test_stages_have_names_of_their_own", OddBackboneConfig(broken="has two stages of one name")),
    Broken("test_layers_are_counted_from_0", OddBackboneConfig(broken="counts layers from 1")),
    Broken("test_weights_are_float32", OddBackboneConfig(broken="has float64 weights")),
    Broken("test_texts_have_the_same_tokens_alone_and_among_others", OddBackboneConfig(broken="pads texts")),
    Broken("test_hidden_states_are_as_wide_as_it_says", OddBackboneConfig(broken="says that it is wider")),
    Broken("test_the_forward_pass_is_the_fold_of_its_stages", OddBackboneConfig(broken="has another forward pass")),
    Broken("test_the_forward_pass_is_that_of_the_original", OddBackboneConfig(broken="differs from its original")),
    Broken(
        "test_gradients_right_of_each_cut_are_those_of_the_whole_backbone",
        OddBackboneConfig(broken="doubles gradients right of a cut"),
    ),
    Broken(
        "test_eval_mode_is_deterministic",
        OddBackboneConfig(broken="changes from call to call"),
        also={
            "test_the_forward_pass_is_the_fold_of_its_stages",
            "test_a_text_gives_the_same_bits_whatever_it_is_encoded_with",
        },
    ),
    Broken("test_gradients_reach_all_parameters", OddBackboneConfig(broken="detaches hidden states")),
    Broken("test_padding_changes_next_to_nothing", OddBackboneConfig(broken="sees padding")),
    Broken(
        "test_stages_mix_tokens_only_where_they_say_so",
        OddBackboneConfig(broken="says that its attention mixes nothing"),
    ),
    Broken("test_stages_mix_tokens_only_where_they_say_so", OddBackboneConfig(broken="looks at the token before")),
    Broken("test_stages_mix_tokens_only_where_they_say_so", OddBackboneConfig(broken="looks at positions")),
    Broken(
        "test_the_first_token_alone_is_what_it_is_among_the_others",
        OddBackboneConfig(broken="has a wrong first token"),
    ),
    Broken(
        "test_the_first_token_alone_is_what_it_is_among_the_others",
        OddBackboneConfig(broken="looks at the length"),
        also={"test_padding_changes_next_to_nothing"},
    ),
    Broken(
        "test_a_text_gives_the_same_bits_whatever_it_is_encoded_with",
        OddBackboneConfig(broken="looks at the size of the batch"),
    ),
    Broken("test_its_architecture_is_written_as_json", OddBackboneConfig(broken="has an architecture with a tuple")),
    Broken("test_it_is_restored_without_its_original_weights", OddBackboneConfig(broken="forgets to truncate")),
]


@topwork.hookimpl
def register_backbones(register: topwork.Register[topwork.BackboneConfig]) -> None:
    register(OddBackboneConfig)
