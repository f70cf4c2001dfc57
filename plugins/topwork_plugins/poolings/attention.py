"""A mean whose weights are learnt: which tokens matter to the tasks."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import topwork


class AttentionPooling(topwork.Pooling):
    """Averages over the tokens under the mask, by a softmax of what a small network says of each (Yang et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)  # a softmax does not see a bias

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        hidden = torch.where(mask[:, :, None], hidden, 0.0)
        scores: Tensor = self.score(self.dense(hidden).tanh())  # (B, T, 1)
        weights = scores.masked_fill(~mask[:, :, None], float("-inf")).softmax(dim=1)
        return (weights * hidden).sum(dim=1)


class AttentionConfig(topwork.PoolingConfig):
    """Settings of the pooling ``attention``. It trains with the heads: what is kept is then a vector for each token."""

    kind: Literal["attention"] = "attention"

    def build(self, width: int) -> topwork.Pooling:
        return AttentionPooling(width)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(AttentionConfig)
