"""Everything in the backbone is frozen."""

import pytest

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.all import AllConfig


@pytest.mark.parametrize("epoch", [1, 2, 100])
def test_nothing_in_the_backbone_trains(epoch: int) -> None:
    assert set(AllConfig().trainable(tiny_model(), epoch)) == set()
