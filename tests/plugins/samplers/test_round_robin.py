"""Batches of one source each, in turn."""

import pytest
from pydantic import ValidationError

from topwork.engine.training.sampling import resolve_sampling
from topwork.experiment.schema import Training
from topwork_plugins.samplers.round_robin import RoundRobinConfig


@pytest.mark.parametrize("shuffle", [False, True])
def test_sources_take_turns(shuffle: bool) -> None:
    sampling = resolve_sampling(RoundRobinConfig(), {"a": 40, "b": 4, "c": 16}, 2, where="sampling")
    batches = sampling.batches_of(1, Training(batch_size=5, shuffle=shuffle))
    sources = ["a" if rows[0] < 40 else "b" if rows[0] < 44 else "c" for rows in batches]
    assert sources == ["a", "b", "c"] * 4
    assert all(len(rows) == 5 for rows in batches)


def test_batches_cannot_be_mixed() -> None:
    with pytest.raises(ValidationError, match="batches"):
        RoundRobinConfig(batches="mixed")
