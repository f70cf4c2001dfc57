"""Stored activations come in batches, whatever shards they are in, and with others that are only in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from store_helpers import held
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.digests import Digests

OpenStore = Callable[[], ActivationStore]
DigestsOf = Callable[..., Digests]
RandomRagged = Callable[..., Ragged]
BitsOf = Callable[[tuple[Tensor, Tensor]], list[bytes]]
Fill = Callable[..., None]


def test_a_batch_may_ask_for_a_text_twice_and_for_texts_of_one_shard_only(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, bits_of: BitsOf, fill: Fill
) -> None:
    first, second = random_ragged([2, 5]), random_ragged([4, 1], seed=1)
    fill(first)
    fill(second, first=2)
    stored = open_store().find(digests_of(range(4)))
    assert len(stored.shards) == 2
    assert bits_of(stored.batch(torch.tensor([3, 3]))) == bits_of(second.batch(torch.tensor([1, 1])))
    assert bits_of(stored.batch(torch.tensor([1, 0, 1]))) == bits_of(first.batch(torch.tensor([1, 0, 1])))


def test_those_that_are_missing_may_be_in_memory(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, bits_of: BitsOf, fill: Fill
) -> None:
    kept, computed = random_ragged([2, 5]), random_ragged([4], seed=1)
    fill(kept, first=1)
    stored = open_store().find(digests_of(range(3)))
    assert stored.missing.tolist() == [0]
    whole = stored.with_computed(computed)
    assert held(whole) == [0, 1, 2]
    assert bits_of(whole.batch(torch.tensor([1, 0, 2]))) == [
        *bits_of(kept.batch(torch.tensor([0]))),
        *bits_of(computed.batch(torch.tensor([0]))),
        *bits_of(kept.batch(torch.tensor([1]))),
    ]
