"""The optimizer has the plan's groups, and the schedule scales every rate alike."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers.optimization import get_scheduler

from topwork.engine.preparation import prepare
from topwork.engine.training.optimizer import make_optimizer, schedule_factor, set_learning_rates
from topwork.errors import ConfigurationError
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
    made = make_optimizer(prepared.model, prepared.weighting, prepared.plan.phases[0], prepared.experiment.training)
    assert type(made) is torch.optim.AdamW
    found = [(group["name"], group["lr"], group["weight_decay"], group["fused"]) for group in made.param_groups]
    assert found == [("heads", 0.3, 0.1, True), ("backbone", 0.2, 0.1, True)]
    assert [len(group["params"]) for group in made.param_groups] == [8, 6]


@pytest.mark.parametrize(
    ("schedule", "theirs", "options"),
    [
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("cosine_restarts", "cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", "polynomial", {"power": 1.5, "lr_end": 0.0}),
        ("inverse_sqrt", "inverse_sqrt", {"timescale": 10}),
    ],
)
def test_schedules_are_those_of_transformers(schedule: Any, theirs: str, options: dict[str, float]) -> None:
    settings = Training(
        schedule=schedule,
        warmup=0.25,
        cycles=options.get("num_cycles", 2),
        power=options.get("power", 2.0),
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    (wanted,) = get_scheduler(
        theirs, optimizer, num_warmup_steps=10, num_training_steps=40, scheduler_specific_kwargs=options
    ).lr_lambdas
    found = [schedule_factor(settings, step, 40) for step in range(10, 40)]
    assert found == pytest.approx([wanted(step) for step in range(10, 40)], abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cycles": 3}, "cycles is a setting of schedule: cosine_restarts, but schedule is constant"),
        ({"power": 3.0, "schedule": "cosine"}, "power is a setting of schedule: polynomial, but schedule is cosine"),
        (
            {"schedule": "inverse_sqrt"},
            "schedule: inverse_sqrt falls from the end of the warm-up on; give warmup above 0",
        ),
    ],
)
def test_settings_of_another_schedule_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Training(**settings)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"betas": (0.8, 0.9)}),
        ("AdamW", {"eps": 1e-6}),
        ("RMSprop", {"alpha": 0.9}),
        ("Adafactor", {"d": 2.0}),
    ],
)
def test_each_optimizer_of_torch_has_its_options_and_learns(
    make: Make, train: Train, kind: Any, options: dict[str, Any]
) -> None:
    settings = {"epochs": 4, "optimizer": kind, "optimizer_options": options}
    experiment = make(training=settings)
    prepared = prepare(experiment)
    made = make_optimizer(prepared.model, prepared.weighting, prepared.plan.phases[0], experiment.training)
    assert type(made) is getattr(torch.optim, kind)
    assert {name: made.param_groups[0][name] for name in options} == options
    losses = [epoch.metrics["training/loss"] for epoch in train(experiment).fit.epochs]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "SGD",
            {"momentun": 0.9},
            "SGD has no option 'momentun', only momentum, dampening, nesterov; did you mean momentum?",
        ),
        ("AdamW", {"lr": 0.9}, "lr is a setting of the groups; give it in optimizer"),
        ("AdamW", {"fused": True}, "AdamW has no option 'fused', only betas, eps, amsgrad"),
        ("Adam", {"betas": (0.9, 2.0)}, "Adam refuses its options: Invalid beta parameter at index 1: 2.0"),
        (
            "SGD",
            {"nesterov": True},
            "SGD refuses its options: Nesterov momentum requires a momentum and zero dampening",
        ),
        ("AdamW", {"betas": 0.9}, "AdamW refuses its options: "),
        ("AdamW", {"betas": (0.9,)}, "AdamW refuses its options: "),
        ("AdamW", {"betas": (0.9, 0.9, 0.9)}, "AdamW refuses its options: "),
        ("Adafactor", {"eps": (1.0,)}, "Adafactor refuses its options: "),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_computed(
    make: Make, kind: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"training.optimizer_options: {message}")):
        prepare(make(training={"optimizer": kind, "optimizer_options": options}))
