"""The gradients of a step are those of the total that the weighting makes, whole or in pieces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from joint_helpers import joint_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.engine.training.step import checked_gradient, checked_total
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment
from topwork.interfaces.loss_weighting import FactorsFrom, GradientWeighting, LossWeighting, LossWeightingConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig

Make = Callable[..., Experiment]
ROWS = torch.arange(11)


class LogSum(LossWeighting):
    """The logarithm of the sum of the losses: the factors depend on all of them."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(losses.values())).logsumexp(dim=0)


class LogSumConfig(LossWeightingConfig):
    kind: Literal["log sum"] = "log sum"

    def build(self, tasks: Sequence[str]) -> LossWeighting:
        return LogSum()


class SumOfGradients(GradientWeighting):
    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        return gradients.sum(dim=0)


class SumOfGradientsConfig(LossWeightingConfig):
    kind: Literal["sum of gradients"] = "sum of gradients"

    def build(self, tasks: Sequence[str]) -> GradientWeighting:
        return SumOfGradients()


class AfterStep(LossWeighting):
    """Keeps the losses that it is given after a step."""

    factors_from: ClassVar[FactorsFrom] = "settings"
    reads_losses_after_step: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[str, float] = {}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(losses.values())).sum()

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        self.after = {name: loss.item() for name, loss in losses.items()}


class AfterStepConfig(LossWeightingConfig):
    kind: Literal["after step"] = "after step"

    def build(self, tasks: Sequence[str]) -> LossWeighting:
        return AfterStep()


@pytest.fixture(scope="module")
def prepared(make: Make) -> tuple[MultiTaskModel, Examples]:
    """A model in float64 all of whose parts train, and its training rows, one in three without a category."""
    ready = prepare(make(freeze=NoneConfig()))
    data, _ = ready.load_examples(ready.plan.phases[0], torch.device("cpu"), Observer())
    examples = data["train"]
    examples.labelled["category"] = torch.arange(examples.count) % 3 > 0
    return ready.model.double().eval(), examples


def gradients_of(
    model: MultiTaskModel, examples: Examples, config: LossWeightingConfig, accumulation: int = 1, **weights: float
) -> tuple[dict[str, Tensor], list[Tensor], Any]:
    """The gradients of the model's parameters and of the weighting's own, and what the step says."""
    model.zero_grad(set_to_none=True)
    joint = joint_of(model, {"sentiment": 1.0, "category": 1.0} | weights, accumulation, config)
    joint.weighting.double()
    step = joint.backward(examples, ROWS)
    own = [parameter.grad for parameter in joint.weighting.parameters() if parameter.grad is not None]
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}, own, step


def written_out(
    model: MultiTaskModel, examples: Examples, total: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The gradients of a total of both losses, each computed over the whole batch."""
    losses = []
    for task in ("sentiment", "category"):
        rows = ROWS[examples.labelled[task][ROWS]]
        batch = examples.batch(rows)
        outputs = model.heads[task](model.pool(batch.hidden, batch.mask))
        losses.append(model.tasks[task].loss(outputs, examples.targets[task][rows]))
    found = torch.autograd.grad(total(*losses), list(model.parameters()), allow_unused=True)
    return {name: one for (name, _), one in zip(model.named_parameters(), found, strict=True) if one is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_gradients_of_fixed_weights_are_those_of_the_weighted_sum(prepared: Any, accumulation: int) -> None:
    model, examples = prepared
    found, own, step = gradients_of(*prepared, FixedConfig(weights={"category": 0.25}), accumulation, sentiment=2.0)
    assert_same(found, written_out(model, examples, lambda one, other: 2.0 * one + 0.25 * other))
    assert own == []
    assert step.factors == {}


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_factors_that_depend_on_the_losses_are_those_of_the_whole_batch(prepared: Any, accumulation: int) -> None:
    model, examples = prepared
    found, _, step = gradients_of(*prepared, LogSumConfig(), accumulation)
    assert_same(found, written_out(model, examples, lambda *both: torch.stack(both).logsumexp(dim=0)))
    both = torch.tensor([step.losses["sentiment"], step.losses["category"]]).softmax(dim=0)
    assert list(step.factors.values()) == pytest.approx(both.tolist(), abs=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_parameters_of_a_weighting_get_the_gradient_of_the_whole_batch(prepared: Any, accumulation: int) -> None:
    model, examples = prepared
    found, (own,), step = gradients_of(*prepared, UncertaintyConfig(), accumulation)
    assert_same(found, written_out(model, examples, lambda one, other: 0.5 * one + 0.5 * other))
    losses = [step.losses["sentiment"], step.losses["category"]]
    assert own.tolist() == pytest.approx([0.5 - 0.5 * loss for loss in losses], abs=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_the_sum_of_the_tasks_gradients_is_the_gradient_of_the_sum(prepared: Any, accumulation: int) -> None:
    model, examples = prepared
    found, _, step = gradients_of(*prepared, SumOfGradientsConfig(), accumulation, category=3.0)
    assert_same(found, written_out(model, examples, lambda one, other: one + 3.0 * other))
    assert step.losses.keys() == {"sentiment", "category"}


def test_dropout_draws_the_same_where_losses_are_computed_twice(prepared: Any) -> None:
    model, examples = prepared
    model.train()
    try:
        states = []
        for config in (FixedConfig(), LogSumConfig()):  # of which only the second computes them twice
            torch.manual_seed(0)
            losses = gradients_of(model, examples, config, 3)[2].losses
            states.append((losses, torch.get_rng_state()))
    finally:
        model.eval()
    assert states[0][0] == pytest.approx(states[1][0], abs=1e-9)
    assert torch.equal(states[0][1], states[1][1])


def test_losses_after_the_step_are_those_of_the_same_batch(prepared: Any) -> None:
    model, examples = prepared
    joint = joint_of(model, {"sentiment": 1.0, "category": 2.0}, 2, AfterStepConfig())
    step = joint.backward(examples, ROWS)
    joint.after_step(examples, ROWS)
    expected = {"sentiment": step.losses["sentiment"], "category": 2.0 * step.losses["category"]}
    assert joint.weighting.after == pytest.approx(expected, abs=1e-9)


def test_a_batch_without_labels_gives_no_gradient(prepared: Any) -> None:
    model, examples = prepared
    for config in (FixedConfig(), UncertaintyConfig(), SumOfGradientsConfig(), LogSumConfig()):
        for accumulation in (1, 2):
            model.zero_grad(set_to_none=True)
            step = joint_of(model, None, accumulation, config).backward(examples, ROWS[:0])
            assert step.losses == {}
            assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("total", [1.0, torch.zeros(2, requires_grad=True), torch.tensor(1.0), None], ids=repr)
def test_what_is_no_total_is_refused(total: object) -> None:
    with pytest.raises(PluginError, match="a loss weighting must give one number that depends on the losses"):
        checked_total(total)


@pytest.mark.parametrize("gradient", [1.0, torch.zeros(2), None], ids=repr)
def test_what_is_no_gradient_is_refused(gradient: object) -> None:
    with pytest.raises(PluginError, match=r"a gradient weighting must give a gradient of 3 numbers, got "):
        checked_gradient(gradient, {"a": torch.zeros(3)})
