"""Poolings that break one rule each."""

from typing import Literal

import torch
from torch import Tensor, nn

import topwork
from broken_plugins import Broken

#: Goes on from pooling to pooling, where torch's own generator is seeded for each.
unseeded = torch.Generator()


class OddPooling(topwork.Pooling):
    """A mean weighted by scores, or one with something wrong."""

    def __init__(self, width: int, broken: str) -> None:
        super().__init__()
        self.width = width + 1 if broken == "says that it is wider" else width
        self.broken = broken
        self.reads_first_token_only = broken == "reads more than the first token"
        self.layers = (0, 1) if broken == "trains where a layer is pooled" else ()
        self.score = nn.Linear(width, 1)
        if broken == "has a parameter that it does not use":
            self.unused = nn.Parameter(torch.zeros(1))
        if broken == "keeps a weight to itself":
            self.offset = torch.randn(width)
        if broken == "has a generator of its own":
            nn.init.normal_(self.score.weight, generator=unseeded)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.broken == "detaches hidden states" or (self.broken == "trains alone" and self.training):
            hidden = hidden.detach()
        if self.broken == "detaches the last token":
            hidden = torch.cat([hidden[:, :-1], hidden[:, -1:].detach()], dim=1)
        if self.broken != "adds padding up":
            hidden = hidden.masked_fill(~mask[:, :, None], 0.0)
        weights = self.score(hidden).sigmoid()  # (B, T, 1)
        if self.broken == "divides by the longest text":
            lengths = mask.sum(dim=1, keepdim=True).max()
        else:
            lengths = mask.sum(dim=1, keepdim=True)
        pooled: Tensor = (weights * hidden).sum(dim=1) / lengths
        return pooled + self.offset if self.broken == "keeps a weight to itself" else pooled


class OddPoolingConfig(topwork.PoolingConfig):
    """Settings of a pooling that may break a rule."""

    kind: Literal["odd"] = "odd"
    broken: str = ""

    def build(self, width: int) -> topwork.Pooling:
        return OddPooling(width, self.broken)


class MaxPooling(topwork.Pooling):
    """The largest number of each column; sound, though small changes to most hidden states do not show."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)


class AttentionPooling(topwork.Pooling):
    """Weights that are 0 at padding, whatever stands there; sound, since 0 times a number is 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.score = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        weights = self.score(hidden).masked_fill(~mask[:, :, None], -torch.inf).softmax(dim=1)  # (B, T, 1)
        pooled: Tensor = (weights * hidden).sum(dim=1)
        return pooled


class AttentionPoolingConfig(topwork.PoolingConfig):
    """Settings of the attention."""

    kind: Literal["sound_attention"] = "sound_attention"

    def build(self, width: int) -> topwork.Pooling:
        return AttentionPooling(width)


class MaxPoolingConfig(topwork.PoolingConfig):
    """Settings of the maximum."""

    kind: Literal["sound_max"] = "sound_max"

    def build(self, width: int) -> topwork.Pooling:
        return MaxPooling(width)


BROKEN = [
    Broken(
        "test_the_result_is_as_wide_as_it_says", OddPoolingConfig(broken="says that it is wider"), topwork.PluginError
    ),
    Broken(
        "test_the_result_is_as_wide_as_it_says",
        OddPoolingConfig(broken="trains where a layer is pooled"),
        topwork.PluginError,
        also={"test_gradients_reach_all_parameters"},
    ),
    Broken(
        "test_padding_changes_nothing",
        OddPoolingConfig(broken="adds padding up"),
        also={"test_the_result_is_as_wide_as_it_says"},
    ),
    Broken(
        "test_a_text_is_pooled_alike_alone_and_among_others",
        OddPoolingConfig(broken="divides by the longest text"),
        also={"test_the_result_is_as_wide_as_it_says"},
    ),
    Broken(
        "test_reading_the_first_token_only_means_just_that",
        OddPoolingConfig(broken="reads more than the first token"),
        also={"test_the_result_is_as_wide_as_it_says"},
    ),
    Broken("test_gradients_reach_every_hidden_state_that_it_reads", OddPoolingConfig(broken="detaches hidden states")),
    Broken("test_gradients_reach_every_hidden_state_that_it_reads", OddPoolingConfig(broken="detaches the last token")),
    Broken("test_gradients_reach_every_hidden_state_that_it_reads", OddPoolingConfig(broken="trains alone")),
    Broken("test_gradients_reach_all_parameters", OddPoolingConfig(broken="has a parameter that it does not use")),
    Broken("test_the_same_seed_gives_the_same_initial_weights", OddPoolingConfig(broken="has a generator of its own")),
    Broken("test_it_is_restored_from_its_parameters_and_buffers", OddPoolingConfig(broken="keeps a weight to itself")),
]


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(OddPoolingConfig)
    register(MaxPoolingConfig)
    register(AttentionPoolingConfig)
