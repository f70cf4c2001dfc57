"""What a sampler must keep to."""

import math
from collections.abc import Iterator
from typing import ClassVar

from topwork.engine.training.sampling import checked_shares, divide
from topwork.interfaces.sampler import SamplerConfig
from topwork.testing.plugin import PluginContract

#: The first epochs, in which most happens, and some far later.
EPOCHS = (1, 2, 3, 10, 100)


class SamplerContract(PluginContract):
    """A sampler gives every source a share, whatever their sizes.

    Attributes:
        sources: names of sources that fit ``config``.
    """

    config: ClassVar[SamplerConfig]
    sources: ClassVar[tuple[str, ...]] = ("reviews", "questions", "pairs")

    def test_every_source_has_a_share_from_0(self) -> None:
        for sizes in self._sizes():
            for epoch in EPOCHS:
                shares = checked_shares(self.config, sizes, epoch)
                rows = divide(sum(sizes.values()), shares)
                assert sum(rows) == sum(sizes.values()), f"shares {shares} of {sizes} give {rows} rows"

    def test_every_source_gives_rows_in_some_epoch(self) -> None:
        for sizes in self._sizes():
            every = [checked_shares(self.config, sizes, epoch) for epoch in EPOCHS]
            assert all(any(shares) for shares in zip(*every, strict=True)), "a source has share 0 in all epochs"

    def test_the_answer_does_not_depend_on_what_was_asked_before(self) -> None:
        asked = [(sizes, epoch) for sizes in self._sizes() for epoch in EPOCHS]
        answers = [dict(self.config.shares(*question)) for question in asked]
        again = [dict(self.config.shares(*question)) for question in reversed(asked)]
        assert again == answers[::-1], "shares must depend on sizes and epoch alone, since a run that goes on asks anew"

    def test_sizes_are_not_changed(self) -> None:
        for sizes in self._sizes():
            given = dict(sizes)
            self.config.shares(given, 1)
            assert given == sizes, f"shares must leave the sizes as they are, {sizes}, got {given}"

    def _sizes(self) -> Iterator[dict[str, int]]:
        """Sources of equal sizes, of different ones, and of very different ones."""
        for base in (1, 7, 1000):
            yield {name: math.ceil(base**number) for number, name in enumerate(self.sources)}
