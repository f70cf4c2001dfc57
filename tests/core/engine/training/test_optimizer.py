"""AdamW has the plan's groups, and the schedule scales every rate alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from topwork.engine.preparation import prepare
from topwork.engine.training.optimizer import make_optimizer, set_learning_rates
from topwork.experiment.schema import Experiment, Training
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig

Make = Callable[..., Experiment]


Train = Callable[..., Any]


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, 0.853553, 0.5, 0.146447]),
        ("constant", 0.5, [1 / 3, 2 / 3, 1, 1]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 0.25, [1 / 2, 1, 0.75, 0.25]),
    ],
)
def test_schedules_scale_every_rate(schedule: Any, warmup: float, factors: list[float]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"name": name, "params": [weight], "initial_lr": rate}
        for name, weight, rate in zip("ab", weights, (1.0, 0.5), strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)
    settings = Training(schedule=schedule, warmup=warmup)
    returned = [set_learning_rates(optimizer, settings, 0, 4)]
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for step in range(1, 4):
        optimizer.step()
        returned.append(set_learning_rates(optimizer, settings, step, 4))
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert [first for first, _ in rates] == pytest.approx(factors, abs=1e-6)
    assert [second for _, second in rates] == pytest.approx([factor / 2 for factor in factors], abs=1e-6)
    assert [list(step.values()) for step in returned] == rates


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rates_end_at_zero(make: Make, train: Train, schedule: str) -> None:
    epochs = train(make(training={"epochs": 4, "schedule": schedule})).fit.epochs
    rates = [epoch.learning_rates["heads"] for epoch in epochs]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.002  # of 0.01


def test_the_rates_of_an_epoch_are_those_of_its_last_step(make: Make, train: Train) -> None:
    epochs = train(make(training={"epochs": 2, "batch_size": 36, "schedule": "linear"})).fit.epochs
    assert [epoch.learning_rates["heads"] for epoch in epochs] == pytest.approx([0.01, 0.005])


def test_the_optimizer_is_fused_adamw_with_the_groups_of_the_plan(make: Make) -> None:
    optimizer = HeadsAndBackboneConfig(heads_lr=0.3, backbone_lr=0.2, weight_decay=0.1)
    prepared = prepare(make(optimizer=optimizer))
    made = make_optimizer(prepared.model, prepared.weighting, prepared.plan.phases[0])
    assert type(made) is torch.optim.AdamW
    found = [(group["name"], group["lr"], group["weight_decay"], group["fused"]) for group in made.param_groups]
    assert found == [("heads", 0.3, 0.1, True), ("backbone", 0.2, 0.1, True)]
    assert [len(group["params"]) for group in made.param_groups] == [8, 6]
