"""Seeds for one purpose each, so that no purpose disturbs another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, *purpose: str) -> Iterator[None]:
    """Run a block with torch's generator seeded for one purpose; afterwards the generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


def derive_seed(seed: int, *purpose: str) -> int:
    """Return a seed in [0, 2**63) that is independent for each purpose."""
    digest = hashlib.sha256("\0".join([str(seed), *purpose]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
