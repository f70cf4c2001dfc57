"""A sampler that begins with one source and lets the others in epoch by epoch."""

from collections.abc import Mapping
from typing import Literal

import topwork


class CurriculumConfig(topwork.SamplerConfig):
    """Settings of the sampler ``curriculum``.

    Attributes:
        every: epochs after which one source more takes part, in the order of the experiment.
    """

    kind: Literal["curriculum"] = "curriculum"
    every: topwork.Count = 1

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        return {name: size if number * self.every < epoch else 0 for number, (name, size) in enumerate(sizes.items())}


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(CurriculumConfig)
