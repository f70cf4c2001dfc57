"""As many rows of each source."""

from collections.abc import Mapping
from typing import Literal

import topwork


class UniformConfig(topwork.SamplerConfig):
    """Settings of the sampler ``uniform``: all sources give equally many rows, whatever their size."""

    kind: Literal["uniform"] = "uniform"

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        return dict.fromkeys(sizes, 1.0)


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(UniformConfig)
