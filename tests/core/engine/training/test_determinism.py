"""Whatever joins the tasks, a run repeats to the last bit, with the store and without."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phase_helpers import weights_of
from topwork.experiment.schema import Experiment
from topwork.experiment.source import Source, Split
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.interfaces.sampler import SamplerConfig
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.bitfit import BitfitConfig
from topwork_plugins.freeze_strategies.last_layers import LastLayersConfig
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig
from topwork_plugins.poolings.attention import AttentionConfig
from topwork_plugins.poolings.last import LastConfig
from topwork_plugins.poolings.max import MaxConfig
from topwork_plugins.poolings.mean import MeanConfig
from topwork_plugins.poolings.weighted_mean import WeightedMeanConfig
from topwork_plugins.samplers.proportional import ProportionalConfig
from topwork_plugins.samplers.round_robin import RoundRobinConfig
from topwork_plugins.samplers.temperature import TemperatureConfig
from topwork_plugins.samplers.uniform import UniformConfig
from topwork_plugins.samplers.weighted import WeightedConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

SAMPLERS = [
    ProportionalConfig(),
    ProportionalConfig(batches="single"),
    RoundRobinConfig(),
    UniformConfig(),
    TemperatureConfig(temperature=4.0, cooldown=2),
    WeightedConfig(weights={"reviews": 1.0, "fewer": 3.0}),
]
WEIGHTINGS = [
    FixedConfig(weights={"category": 0.5}),
    UncertaintyConfig(),
    DynamicAverageConfig(),
    TorchJdConfig(scalarizer="FAMO"),
    TorchJdConfig(scalarizer="Random"),
    TorchJdConfig(aggregator="PCGrad"),
    TorchJdConfig(aggregator="UPGrad"),
]
JOINED = [(sampler, FixedConfig()) for sampler in SAMPLERS] + [(SAMPLERS[1], weighting) for weighting in WEIGHTINGS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "weighting", "seed"),
    [(*pair, seed) for seed, pair in enumerate(JOINED)],
    ids=[f"{one.kind} {other}" for one, other in JOINED],
)
def test_a_run_repeats_to_the_last_bit_with_the_store_and_without(
    make: Make,
    train: Train,
    sampler: SamplerConfig,
    weighting: LossWeightingConfig,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    whole = make().data["reviews"]
    data = {"reviews": whole, "fewer": Source(path=whole.path, limit=40, split=Split(validation=0.2, test=0.2))}
    tasks = {
        "sentiment": make().tasks["sentiment"].model_copy(update={"source": "reviews"}),
        "category": make().tasks["category"].model_copy(update={"source": "fewer"}),
    }
    runs = [
        train(
            make(
                data=data,
                tasks=tasks,
                pooling=MeanConfig(),
                sampling=sampler,
                weighting=weighting,
                training={"epochs": 3, "seed": seed, "store": store, "gradient_batches": watched},
            )
        )
        for store, watched in (("off", 0), ("require", 0), ("require", 2))
    ]
    first, *others = [(weights_of(one.model), [own_metrics(epoch.metrics) for epoch in one.fit.epochs]) for one in runs]
    for weights, metrics in others:
        assert metrics == first[1]
        assert all(torch.equal(weights[name], first[0][name]) for name in weights)


def own_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Those that a run has whether gradients are compared or not."""
    return {name: value for name, value in metrics.items() if not name.startswith("gradient_")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "freeze", [AllConfig(), LastLayersConfig(), BitfitConfig(layers=1)], ids=lambda freeze: freeze.kind
)
@pytest.mark.parametrize(
    "pooling", [AttentionConfig(), LastConfig(), MaxConfig(), WeightedMeanConfig()], ids=lambda pooling: pooling.kind
)
def test_every_pooling_gives_the_same_bits_with_the_store_and_without(
    make: Make, train: Train, pooling: PoolingConfig, freeze: FreezeStrategyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    runs = [
        train(make(pooling=pooling, freeze=freeze, training={"epochs": 2, "store": store}))
        for store in ("off", "require")
    ]
    (first, metrics), (other, same) = [(weights_of(run.model), [e.metrics for e in run.fit.epochs]) for run in runs]
    assert metrics == same
    assert all(torch.equal(first[name], other[name]) for name in first)
