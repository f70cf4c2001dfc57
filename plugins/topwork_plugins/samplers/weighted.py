"""Rows of each source by weights."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

import topwork


class WeightedConfig(topwork.SamplerConfig):
    """Settings of the sampler ``weighted``.

    Attributes:
        weights: for each source, its share of an epoch's rows, in any unit: ``{reviews: 2, questions: 1}`` takes twice
            as many reviews as questions.
    """

    kind: Literal["weighted"] = "weighted"
    weights: dict[str, Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]] = Field(min_length=1)

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        if self.weights.keys() != sizes.keys():
            raise ValueError(
                f"weights must have a number for each source, {', '.join(sizes)}, but are of {', '.join(self.weights)}"
            )
        return self.weights


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(WeightedConfig)
