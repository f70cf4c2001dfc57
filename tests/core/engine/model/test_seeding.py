"""Seeds for one purpose do not disturb another."""

import pytest
import torch

from topwork.engine.model.seeding import derive_seed, seeded


def test_seeds_differ_for_each_purpose() -> None:
    purposes = [("order", "1"), ("order", "2"), ("dropout", "1"), ("order1",), ("order", "1", "")]
    assert len({derive_seed(0, *purpose) for purpose in purposes}) == len(purposes)
    assert all(0 <= derive_seed(2**63 - 1, *purpose) < 2**63 for purpose in purposes)


def test_a_seeded_block_leaves_the_generator_as_it_was_when_it_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(0, "test"):
        torch.rand(1)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
