"""Nothing in the backbone is frozen."""

import pytest

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.none import NoneConfig


@pytest.mark.parametrize("epoch", [1, 2, 100])
def test_the_whole_backbone_trains(epoch: int) -> None:
    model = tiny_model()
    wanted = {name for name, _ in model.named_parameters() if name.startswith("backbone.")}
    assert set(NoneConfig().trainable(model, epoch)) == wanted
    assert wanted
