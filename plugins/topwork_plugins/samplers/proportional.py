"""Every row once an epoch."""

from collections.abc import Mapping
from typing import Literal

import topwork


class ProportionalConfig(topwork.SamplerConfig):
    """Settings of the sampler ``proportional``: each source gives all of its rows in every epoch."""

    kind: Literal["proportional"] = "proportional"

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        return sizes


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(ProportionalConfig)
