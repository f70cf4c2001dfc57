"""Build a loss weighting, and try it before it is used."""

from collections.abc import Collection, Mapping, Sequence

import torch

from topwork.engine.model.plan import WEIGHTING_GROUP, Plan
from topwork.engine.model.plugin_checks import check_built, check_state, plugin_errors
from topwork.engine.model.seeding import seeded
from topwork.engine.training.sampling import Sampling
from topwork.engine.training.step import Weighting, checked_gradient, checked_total
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Training
from topwork.interfaces.loss_weighting import GradientWeighting, LossWeighting, LossWeightingConfig


def build_weighting(config: LossWeightingConfig, tasks: Sequence[str], *, seed: int, where: str) -> Weighting:
    """Build the loss weighting of some tasks, from a seed of its own.

    It is built a second time to be tried, so that trying changes nothing.

    Args:
        where: the place of its settings, with which errors begin.

    Raises:
        ConfigurationError: a setting does not fit.
        PluginError: the plugin breaks its interface.
    """
    with plugin_errors(config, where):
        with seeded(seed, "weighting"):
            weighting = _built(config, tasks)
        with seeded(seed, "weighting"):
            _try(_built(config, tasks), tasks)
    return weighting


def check_shared(
    weighting: Weighting, config: LossWeightingConfig, settings: Training, plan: Plan, *, origin: Origin
) -> None:
    """Check that what asks for the tasks' gradients by the parameters that they share has some.

    Raises:
        ConfigurationError: nothing that tasks share trains in any epoch.
    """
    if any(not name.startswith(("heads.", f"{WEIGHTING_GROUP}.")) for name in plan.shapes):
        return
    none = "none of these train: the backbone is frozen, and the pooling has none"
    if isinstance(weighting, GradientWeighting):
        raise ConfigurationError(
            f"{config} weighs the tasks' gradients by the parameters that they share, but {none}; let some train "
            "(freeze), or weigh losses, as with weighting: {kind: uncertainty}"
        ).located(origin.locate("weighting"))
    if settings.gradient_batches:
        raise ConfigurationError(
            f"the tasks' gradients are compared by the parameters that they share, but {none}; let some train "
            "(freeze), or set this to 0"
        ).located(origin.locate("training", "gradient_batches"))


def warn_of_no_pairs(
    weighting: Weighting,
    config: LossWeightingConfig,
    settings: Training,
    sampling: Sampling,
    tasks: Mapping[str, Collection[str]],
) -> list[str]:
    """Say that gradients of tasks never meet, where each batch has rows of one task only.

    Args:
        tasks: of each source, those that are trained.
    """
    several_sources = sampling.batches == "mixed" and len(sampling.sizes) > 1
    if several_sources or any(len(of_source) > 1 for of_source in tasks.values()):
        return []
    why = f"each batch is of one source (sampling.batches: {sampling.batches}) and each source has one task"
    if len(sampling.sizes) == 1:
        why = "one task is trained"
    said = []
    if isinstance(weighting, GradientWeighting):
        said.append(f"{config} never has the gradients of two tasks to weigh, since {why}")
    if settings.gradient_batches:
        said.append(f"training.gradient_batches never finds the gradients of two tasks to compare, since {why}")
    return said


def _built(config: LossWeightingConfig, tasks: Sequence[str]) -> Weighting:
    weighting = config.build(list(tasks))
    if not isinstance(weighting, GradientWeighting):
        check_built(weighting, LossWeighting)
        if not 0 <= weighting.learning_rate < float("inf"):
            raise PluginError(f"the learning rate must be a number from 0, got {weighting.learning_rate!r:.60}")
    check_state(weighting, extra=True)
    return weighting


def _try(weighting: Weighting, tasks: Sequence[str]) -> None:
    """Use a weighting for all tasks and for the first alone, over three epochs.

    Raises:
        PluginError: it does not give what its interface says.
    """
    for epoch in range(1, 4):
        for some in (list(tasks), list(tasks)[:1]):
            if isinstance(weighting, GradientWeighting):
                gradients = torch.randn(len(some), 7)
                checked_gradient(weighting(gradients, some), dict(zip(some, gradients, strict=True)))
                continue
            losses = {
                name: torch.tensor(1.0 / (epoch + number), requires_grad=True) for number, name in enumerate(some)
            }
            checked_total(weighting(losses)).backward()
            if not all(loss.grad is None or bool(loss.grad.isfinite()) for loss in losses.values()):
                raise PluginError("a loss weighting must give finite factors for losses above 0")
            if weighting.reads_losses_after_step:
                weighting.after_step({name: loss.detach() for name, loss in losses.items()})
        if isinstance(weighting, LossWeighting):
            weighting.end_epoch({name: 1.0 / (epoch + number) for number, name in enumerate(tasks)})
