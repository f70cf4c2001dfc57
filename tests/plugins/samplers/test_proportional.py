"""Every row once an epoch."""

import torch

from topwork.engine.training.sampling import resolve_sampling
from topwork.experiment.schema import Training
from topwork_plugins.samplers.proportional import ProportionalConfig


def test_the_share_of_a_source_is_its_size() -> None:
    assert ProportionalConfig().shares({"a": 1000, "b": 10}, 3) == {"a": 1000, "b": 10}


def test_each_row_comes_once_an_epoch() -> None:
    sampling = resolve_sampling(ProportionalConfig(), {"a": 50, "b": 10}, 2, where="sampling")
    for epoch in (1, 2):
        rows = torch.cat(list(sampling.batches_of(epoch, Training(batch_size=8, shuffle=True))))
        assert sorted(rows.tolist()) == list(range(60))
