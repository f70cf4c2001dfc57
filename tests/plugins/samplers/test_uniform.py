"""As many rows of each source."""

import torch

from topwork.engine.training.sampling import resolve_sampling
from topwork.experiment.schema import Training
from topwork_plugins.samplers.uniform import UniformConfig


def test_all_sources_have_the_same_share_whatever_their_sizes() -> None:
    assert len(set(UniformConfig().shares({"a": 1000, "b": 10, "c": 1}, 1).values())) == 1


def test_an_epoch_has_as_many_rows_of_each() -> None:
    sampling = resolve_sampling(UniformConfig(), {"a": 50, "b": 10}, 2, where="sampling")
    rows = torch.cat(list(sampling.batches_of(1, Training(batch_size=8, shuffle=True))))
    assert (int((rows < 50).sum()), int((rows >= 50).sum())) == (30, 30)
