"""Between every row once and as many rows of each source."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

import topwork


class TemperatureConfig(topwork.SamplerConfig):
    """Settings of the sampler ``temperature``: a source of n rows has the share n^(1/T) (Devlin's multilingual BERT).

    Attributes:
        temperature: T, above 0; 1 is proportional, and the higher, the more equal are the shares.
        cooldown: epochs in which T falls, by the same amount each, to 1; null keeps it.
    """

    kind: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 2.0
    cooldown: topwork.Count | None = None

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        cooled = min(1.0, (epoch - 1) / self.cooldown) if self.cooldown else 0.0
        exponent = 1 / (self.temperature + cooled * (1 - self.temperature))
        largest = max(sizes.values())  # of fractions, which cannot overflow
        return {source: (size / largest) ** exponent for source, size in sizes.items()}


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(TemperatureConfig)
