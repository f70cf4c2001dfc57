"""A loss weighting is tried before anything is computed, and named where it fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import topwork
from topwork.engine.preparation import prepare
from topwork.engine.training.sampling import Sampling
from topwork.engine.training.weighting import build_weighting, warn_of_no_pairs
from topwork.errors import ConfigurationError, PluginError, TrainingError
from topwork.experiment.schema import Experiment, Training
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig
from topwork_plugins.samplers.proportional import ProportionalConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]
TASKS = ["sentiment", "category"]


class OddWeighting(topwork.LossWeighting):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.learning_rate = -1.0 if how == "a negative rate" else 1e-3

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        total = torch.stack(list(losses.values())).sum()
        if self.how == "raises":
            raise RuntimeError("no such thing")
        if self.how == "forgets gradients":
            return total.detach()
        return total / 0 if self.how == "divides by 0" else total


class OddGradients(topwork.GradientWeighting):
    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        return gradients


class OddConfig(topwork.LossWeightingConfig):
    kind: Literal["odd"] = "odd"
    how: str

    def build(self, tasks: Sequence[str]) -> Any:
        if self.how == "no weighting":
            return torch.nn.Linear(1, 1)
        if self.how == "unfit":
            raise ValueError("how does not fit")
        return OddGradients() if self.how == "all gradients" else OddWeighting(self.how)


class FirstGradient(topwork.GradientWeighting):
    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        return gradients[0]


class SteepWeighting(topwork.LossWeighting):
    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([loss * (torch.inf if loss > 1 else 1.0) for loss in losses.values()]).sum()


class SteepConfig(topwork.LossWeightingConfig):
    kind: Literal["steep"] = "steep"

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting:
        return SteepWeighting()


class FirstGradientConfig(topwork.LossWeightingConfig):
    kind: Literal["first gradient"] = "first gradient"

    def build(self, tasks: Sequence[str]) -> topwork.GradientWeighting:
        return FirstGradient()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "RuntimeError: no such thing"),
        ("forgets gradients", "a loss weighting must give one number that depends on the losses, got tensor("),
        ("divides by 0", "a loss weighting must give finite factors for losses above 0"),
        ("no weighting", "build must give a LossWeighting, got Linear("),
        ("all gradients", "a gradient weighting must give a gradient of 7 numbers, got tensor("),
        ("a negative rate", "the learning rate must be a number from 0, got -1.0"),
    ],
)
def test_a_weighting_that_breaks_its_interface_is_named(how: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        build_weighting(OddConfig(how=how), TASKS, seed=0, where="x.yaml:9:1: weighting")
    assert str(caught.value).startswith("x.yaml:9:1: weighting: plugin 'odd' of ")
    assert message in str(caught.value)


def test_a_setting_that_does_not_fit_is_the_researchers() -> None:
    with pytest.raises(ConfigurationError, match=r"^weighting: how does not fit$"):
        build_weighting(OddConfig(how="unfit"), TASKS, seed=0, where="weighting")


def test_trying_changes_nothing() -> None:
    weighting = build_weighting(DynamicAverageConfig(), TASKS, seed=0, where="weighting")
    assert weighting.means.isnan().all()
    assert weighting.factors.tolist() == [1.0, 1.0]


def test_gradients_need_something_shared_that_trains(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(weighting=FirstGradientConfig(), freeze=AllConfig()))
    assert str(caught.value) == (
        "weighting: kind='first gradient' weighs the tasks' gradients by the parameters that they share, but none of "
        "these train: the backbone is frozen, and the pooling has none; let some train (freeze), or weigh losses, as "
        "with weighting: {kind: uncertainty}"
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"sampling": {"batches": "single"}}, []),  # both tasks read the one source
        ({"training": {"tasks": ("sentiment",)}}, ["since one task is trained"]),
        ({"training": {"tasks": ("sentiment",), "gradient_batches": 2}}, ["to weigh, since one", "to compare, since"]),
    ],
)
def test_gradients_that_never_meet_are_told(make: Make, parts: dict[str, Any], said: list[str]) -> None:
    parts = parts | ({"sampling": ProportionalConfig(**parts["sampling"])} if "sampling" in parts else {})
    warnings = prepare(make(weighting=FirstGradientConfig(), **parts)).warnings
    told = [warning for warning in warnings if "gradients of two tasks" in warning]
    assert len(told) == len(said)
    assert all(part in warning for part, warning in zip(said, told, strict=True))


def test_gradients_never_meet_where_each_batch_is_of_one_source_with_one_task() -> None:
    tasks = {"reviews": ["sentiment"], "questions": ["kind"]}
    never = [
        "kind='first gradient' never has the gradients of two tasks to weigh, since each batch is of one source "
        "(sampling.batches: single) and each source has one task"
    ]
    for batches, said in (("mixed", []), ("single", never)):
        sampling = Sampling({"reviews": 40, "questions": 20}, batches, ((40, 20),))
        weighting, config = FirstGradient(), FirstGradientConfig()
        assert warn_of_no_pairs(weighting, config, Training(), sampling, tasks) == said
        assert warn_of_no_pairs(weighting, config, Training(), sampling, tasks | {"pairs": ["alike", "joint"]}) == []


def test_a_factor_that_is_not_finite_is_named(make: Make, train: Train) -> None:
    with pytest.raises(TrainingError) as caught:
        train(make(weighting=SteepConfig()))
    assert str(caught.value).startswith("training diverged in epoch 1, step 1: weighting/category is inf; ")


def test_gradients_may_begin_with_a_phase_in_which_nothing_shared_trains(make: Make, train: Train) -> None:
    trained = train(make(weighting=FirstGradientConfig(), freeze=GradualConfig(every=1), training={"epochs": 3}))
    assert len(trained.fit.epochs) == 3


def test_parameters_of_a_weighting_are_a_group_of_the_plan_and_train(make: Make, train: Train) -> None:
    trained = train(make(weighting=UncertaintyConfig(learning_rate=0.02), training={"epochs": 3}))
    (phase,) = trained.prepared.plan.phases
    group = phase.groups[-1]
    assert (group.name, group.parameters) == ("weighting", ("weighting.log_variances",))
    assert (group.learning_rate, group.weight_decay) == (0.02, 0.0)
    assert trained.prepared.plan.size(group) == 2
    assert trained.prepared.weighting.log_variances.abs().min() > 0.01
    last = trained.fit.epochs[-1]
    assert last.learning_rates["weighting"] == 0.02
    factors = [last.metrics[f"weighting/{task}"] for task in TASKS]
    assert factors == pytest.approx((0.5 * torch.exp(-trained.prepared.weighting.log_variances)).tolist(), rel=0.2)


def test_factors_of_dynamic_averages_are_those_of_the_epochs_before(make: Make, train: Train) -> None:
    epochs = train(make(weighting=DynamicAverageConfig(), training={"epochs": 4})).fit.epochs
    for number, epoch in enumerate(epochs):
        factors = torch.tensor([epoch.metrics[f"weighting/{task}"] for task in TASKS])
        expected = torch.ones(2)
        if number >= 2:
            before, last = (
                torch.tensor([epochs[number - back].metrics[f"training/{task}/loss"] for task in TASKS])
                for back in (2, 1)
            )
            expected = 2 * torch.softmax(last / before / 2.0, dim=0)
        torch.testing.assert_close(factors, expected, atol=1e-5, rtol=0)


def test_totals_of_epochs_can_be_compared_where_factors_change(make: Make, train: Train) -> None:
    metrics = train(make(weighting=UncertaintyConfig())).fit.epochs[-1].metrics
    for split in ("training", "validation"):
        assert metrics[f"{split}/loss"] == pytest.approx(sum(metrics[f"{split}/{task}/loss"] for task in TASKS))
