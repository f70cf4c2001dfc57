"""Biases and norms are spared the weight decay where that is asked for."""

import pytest

import topwork
from topwork.testing import tiny_model
from topwork_plugins.optimizer_groupings.by_pattern import ByPatternConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.optimizer_groupings.layerwise_decay import LayerwiseDecayConfig
from topwork_plugins.optimizer_groupings.uniform import UniformConfig

KINDS = [ByPatternConfig, HeadsAndBackboneConfig, LayerwiseDecayConfig, UniformConfig]


def decay_of(config: topwork.OptimizerGroupingConfig) -> dict[str, tuple[float, float]]:
    """The learning rate and the weight decay of each parameter."""
    model = tiny_model()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    groups = config.groups(model)
    return {name: (one.learning_rate, one.weight_decay) for one in groups for name in one.parameters}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_biases_and_norms_keep_their_rate_and_lose_their_decay(kind: type[topwork.OptimizerGroupingConfig]) -> None:
    before, after = decay_of(kind()), decay_of(kind.model_validate({"no_decay": True}))
    assert before.keys() == after.keys()
    for name, (rate, decay) in after.items():
        spared = name.endswith("bias") or "norm" in name
        assert (rate, decay) == (before[name][0], 0.0 if spared else 0.01), name
