"""A batch of each source in turn."""

from collections.abc import Mapping
from typing import Literal

import topwork


class RoundRobinConfig(topwork.SamplerConfig):
    """Settings of the sampler ``round_robin``: batches are of one source each, of all sources in turn."""

    kind: Literal["round_robin"] = "round_robin"
    batches: Literal["in_turn"] = "in_turn"

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        return dict.fromkeys(sizes, 1.0)


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(RoundRobinConfig)
