"""What an epoch is: how many rows of each source, in which order, in which batches."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from topwork.engine.model.plugin_checks import plugin_errors
from topwork.engine.model.seeding import derive_seed
from topwork.errors import PluginError, enumerate_names
from topwork.experiment.schema import Training
from topwork.interfaces.sampler import Batches, SamplerConfig
from topwork.mapped import zeros


@dataclass(frozen=True)
class Sampling:
    """How many rows every epoch takes of each source.

    Attributes:
        sizes: how many rows each source has.
        batches: how rows of several sources come together.
        rows: for each epoch, how many rows each source gives.
    """

    sizes: dict[str, int]
    batches: Batches
    rows: tuple[tuple[int, ...], ...]

    def of_sizes(self, sizes: Mapping[str, int]) -> "Sampling":
        """Return the same passes over fewer rows of each source, rounded up; without those of which none are left."""
        if sizes == self.sizes:
            return self
        left = [(number, name, size) for number, (name, size) in enumerate(self.sizes.items()) if name in sizes]
        rows = tuple(tuple(-(one[number] * sizes[name] // -size) for number, name, size in left) for one in self.rows)
        return Sampling({name: sizes[name] for _, name, _ in left}, self.batches, rows)

    @property
    def warnings_of_comparison(self) -> list[str]:
        """Say why a task alone differs from one with others in more than what they share; mostly nothing."""
        if self.batches != "mixed" or len(self.sizes) < 2:
            return []
        return [
            "batches mix rows of several sources: alone a task has more of its rows in each step than with others, and "
            "fewer steps, which may be a part of what it gains or loses; sampling.batches: single keeps its steps alike"
        ]

    def steps(self, batch_size: int) -> list[int]:
        """Return how many batches each epoch has."""
        if self.batches == "mixed":
            return [math.ceil(sum(rows) / batch_size) for rows in self.rows]
        return [sum(math.ceil(count / batch_size) for count in rows) for rows in self.rows]

    def batches_of(self, epoch: int, settings: Training) -> Sequence[Int[Tensor, " B"]]:
        """Return the rows of each batch of an epoch (from 1), from the seed and the epoch alone.

        Rows are counted through all sources. Without shuffling, the rows of each source come in the order of the file,
        and are spread evenly over the epoch.
        """
        if self.batches == "mixed" and self._takes_all_once(epoch):
            whole = _order(list(self.sizes.values()), settings, epoch, shuffle=settings.shuffle)
            return list(whole.split(settings.batch_size))
        rows = [self._rows_of(number, epoch, settings) for number in range(len(self.sizes))]
        if self.batches == "mixed":
            counts = [len(taken) for taken in rows]
            order = _keep_within(counts, _order(counts, settings, epoch, shuffle=settings.shuffle))
            batches: tuple[Tensor, ...] = torch.cat(rows)[order].split(settings.batch_size)
            return batches
        pieces = [taken.split(settings.batch_size) if len(taken) else () for taken in rows]
        shuffle = settings.shuffle and self.batches == "single"
        counts = [len(of_source) for of_source in pieces]
        order = _keep_within(counts, _order(counts, settings, epoch, shuffle=shuffle))
        every = [piece for of_source in pieces for piece in of_source]
        return [every[number] for number in order.tolist()]

    def _rows_of(self, source: int, epoch: int, settings: Training) -> Int[Tensor, " _K"]:
        """Return the rows that an epoch takes of one source, going on in it where the epoch before ended."""
        name, size = list(self.sizes.items())[source]
        offset = sum(list(self.sizes.values())[:source])
        first, count = self._taken_before[epoch - 1][source], self.rows[epoch - 1][source]
        positions = torch.arange(first, first + count)
        if not settings.shuffle:
            return offset + positions % size
        passes = {
            one: torch.randperm(size, generator=_generator(settings, "pass", name, str(one)))
            for one in range(first // size, -((first + count) // -size))
        }
        parts = [order[positions[positions // size == one] % size] for one, order in passes.items()]
        return offset + torch.cat([*parts, torch.arange(0)])

    def _takes_all_once(self, epoch: int) -> bool:
        """Whether an epoch is one pass over every source, from its beginning."""
        taken = zip(self.sizes.values(), self.rows[epoch - 1], self._taken_before[epoch - 1], strict=True)
        return all(count == size and before % size == 0 for size, count, before in taken)

    @cached_property
    def _taken_before(self) -> list[tuple[int, ...]]:
        """How many rows of each source were taken before each epoch."""
        none = (0,) * len(self.sizes)
        return list(accumulate(self.rows, lambda before, rows: tuple(map(operator.add, before, rows)), initial=none))


def _order(counts: Sequence[int], settings: Training, epoch: int, *, shuffle: bool) -> Int[Tensor, " N"]:
    """Return the order (N,) in which things of several sources come: shuffled, or each source's spread evenly."""
    order = torch.from_numpy(zeros(sum(counts), np.int64))
    if shuffle:
        return torch.randperm(sum(counts), generator=_generator(settings, "order", str(epoch)), out=order)
    if len(counts) == 1:
        return torch.arange(counts[0], out=order)
    places = torch.cat([(torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1) for count in counts])
    return places.argsort(stable=True)


def _keep_within(counts: Sequence[int], order: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Return an order with the same sequence of sources, in which the things of each source keep theirs.

    So no row comes again early, and a source's batches come in the same order whatever the other sources are.
    """
    sources = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    kept = torch.empty_like(order)
    kept[sources[order].argsort(stable=True)] = torch.arange(len(order))
    return kept


def _generator(settings: Training, *purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(settings.seed, *purpose))


def resolve_sampling(config: SamplerConfig, sizes: Mapping[str, int], epochs: int, *, where: str) -> Sampling:
    """Ask a sampler what every epoch takes of each source.

    Args:
        sizes: how many rows each source has.
        where: the place of its settings, with which errors begin.

    Raises:
        ConfigurationError: a setting does not fit the sources, or a source gives no row in any epoch.
        PluginError: the sampler breaks its interface.
    """
    with plugin_errors(config, where):
        shares = [checked_shares(config, sizes, epoch) for epoch in range(1, epochs + 1)]
        if checked_shares(config, sizes, 1) != shares[0]:
            raise PluginError("asked again for the shares of epoch 1, it gives another answer; it must be pure")
        divided = {one: divide(sum(sizes.values()), one) for one in set(shares)}
        rows = [divided[one] for one in shares]
        never = [name for number, name in enumerate(sizes) if not any(counts[number] for counts in rows)]
        if never:
            raise ValueError(f"source {enumerate_names(never)} gives no row in any of {epochs} epochs")
    return Sampling(dict(sizes), config.batches, tuple(rows))


def checked_shares(config: SamplerConfig, sizes: Mapping[str, int], epoch: int) -> tuple[float, ...]:
    """Return a sampler's shares of the sources, in their order.

    Raises:
        PluginError: they are not of these sources, or no numbers from 0.
    """
    given: object = config.shares(dict(sizes), epoch)
    if not isinstance(given, Mapping) or given.keys() != sizes.keys():
        raise PluginError(f"shares must give a number for each source, {', '.join(sizes)}, got {given!r:.60}")
    if not all(isinstance(given[name], int | float) for name in sizes):
        raise PluginError(f"shares must be numbers, got {given!r:.60}")
    shares = tuple(float(given[name]) for name in sizes)
    if not all(0 <= share < math.inf for share in shares) or not 0 < sum(shares) < math.inf:
        raise PluginError(f"shares must be finite numbers from 0, and not all 0, got {given!r:.60}")
    return shares


def divide(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Divide rows by shares, and leave none: those that rounding down leaves go to the largest remainders."""
    exact = [total * (share / sum(shares)) for share in shares]
    counts = [math.floor(one) for one in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return tuple(counts)
