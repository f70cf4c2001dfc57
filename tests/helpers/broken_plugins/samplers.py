"""Samplers that break one rule each."""

import itertools
from collections.abc import Mapping
from typing import Literal

import topwork
from broken_plugins import Broken

#: Every question to every sampler.
questions = itertools.count(1)


class OddSamplerConfig(topwork.SamplerConfig):
    """Settings of a sampler that may break a rule."""

    kind: Literal["odd"] = "odd"
    broken: str = ""

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        if self.broken == "changes its mind":
            return {name: float(next(questions)) for name in sizes}
        if self.broken == "changes sizes":
            sizes["reviews"] = 3  # type: ignore[index]  # the rule that it breaks
        if self.broken == "forgets a source":
            return dict.fromkeys(list(sizes)[1:], 1.0)
        if self.broken == "never takes the first":
            return {name: float(number) for number, name in enumerate(sizes)}
        return dict.fromkeys(sizes, 1.0)


BROKEN = [
    Broken(
        "test_every_source_has_a_share_from_0",
        OddSamplerConfig(broken="forgets a source"),
        topwork.PluginError,
        also={"test_every_source_gives_rows_in_some_epoch"},
    ),
    Broken("test_every_source_gives_rows_in_some_epoch", OddSamplerConfig(broken="never takes the first")),
    Broken("test_the_answer_does_not_depend_on_what_was_asked_before", OddSamplerConfig(broken="changes its mind")),
    Broken("test_sizes_are_not_changed", OddSamplerConfig(broken="changes sizes")),
]


@topwork.hookimpl
def register_samplers(register: topwork.Register[topwork.SamplerConfig]) -> None:
    register(OddSamplerConfig)
