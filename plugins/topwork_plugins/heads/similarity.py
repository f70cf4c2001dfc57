"""How alike two texts are: the cosine of their pooled vectors, stretched to the scale of the labels."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import topwork


class SimilarityConfig(topwork.HeadConfig):
    """Settings of the head ``similarity``, for pairs whose texts are encoded apart, and a number for each pair.

    Attributes:
        projection: columns of a linear layer that both vectors pass through before they are compared; null compares
            them as they are.
    """

    kind: Literal["similarity"] = "similarity"
    projection: topwork.Count | None = None

    label_spaces: ClassVar = (topwork.Numbers,)
    reads: ClassVar = "two pooled"

    def build(self, width: int, labels: topwork.Numbers) -> topwork.Head:
        if len(labels.names) != 1:
            raise ValueError(f"a similarity head takes one number, but there are {len(labels.names)} columns")
        (mean,), (scale,) = labels.mean, labels.scale
        projection = nn.Linear(width, self.projection) if self.projection else nn.Identity()

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.mse_loss(outputs / scale, targets / scale)

        return topwork.Head(
            module=Cosine(projection, mean, scale),
            loss=loss,
            decode=lambda outputs: topwork.Decoded(outputs[:, 0].tolist()),
            metrics=topwork.number_metrics(),
            figures=[topwork.scatter_figure()],
        )


class Cosine(nn.Module):
    """The cosine of two vectors (B, 2, W), times a factor and plus an offset that are learnt, (B, 1)."""

    def __init__(self, projection: nn.Module, mean: float, scale: float) -> None:
        super().__init__()
        self.projection = projection
        self.factor, self.offset = nn.Parameter(torch.tensor(2 * scale)), nn.Parameter(torch.tensor(mean - scale))

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = self.projection(pairs).unbind(dim=1)
        stretched: Tensor = self.offset + self.factor * nn.functional.cosine_similarity(first, second, dim=1)
        return stretched[:, None]


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(SimilarityConfig)
