"""What a loss weighting must keep to."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from topwork.engine.training.step import Weighting, checked_gradient, checked_total
from topwork.interfaces.loss_weighting import LossWeighting, LossWeightingConfig
from topwork.testing.plugin import PluginContract

#: The shared numbers that gradients are tried with.
NUMBERS = 9


class LossWeightingContract(PluginContract):
    """A loss weighting gives a total, or a gradient, whichever tasks have rows in a step.

    Attributes:
        tasks: names of tasks that fit ``config``.
    """

    config: ClassVar[LossWeightingConfig]
    tasks: ClassVar[tuple[str, ...]] = ("sentiment", "category", "slots")

    def test_it_gives_one_total_or_one_gradient_for_any_tasks(self) -> None:
        for some in (self.tasks, self.tasks[1:], self.tasks[:1], self.tasks[-1:]):
            found = self._use(self._build(), some)
            assert found.isfinite().all(), f"not finite for {some}"

    def test_every_parameter_gets_a_gradient(self) -> None:
        weighting = self._build()
        if isinstance(weighting, LossWeighting):
            checked_total(weighting(losses(self.tasks))).backward()
            without = [name for name, parameter in weighting.named_parameters() if parameter.grad is None]
            assert not without, f"no gradient reaches {', '.join(without)}"

    def test_what_it_is_given_is_not_changed(self) -> None:
        weighting = self._build()
        if isinstance(weighting, LossWeighting):
            given = losses(self.tasks)
            before = torch.stack(list(given.values())).detach()
            weighting(given)
            assert torch.equal(torch.stack(list(given.values())), before), "it changes the losses that it is given"
        else:
            gradients = torch.randn(len(self.tasks), NUMBERS)
            before = gradients.clone()
            weighting(gradients, self.tasks)
            assert torch.equal(gradients, before), "it changes the gradients that it is given"

    def test_factors_depend_on_what_it_says(self) -> None:
        weighting = self._build()
        if not isinstance(weighting, LossWeighting) or weighting.factors_from == "losses":
            return
        before = factors(weighting, losses(self.tasks))
        assert factors(weighting, losses(self.tasks, shift=2.0)) == before, "factors depend on the losses of the step"
        if weighting.factors_from == "settings":
            self._pass_epochs(weighting)
            assert factors(weighting, losses(self.tasks)) == before, "factors depend on earlier epochs"

    def test_all_that_changes_is_in_its_state(self) -> None:
        used, restored = self._build(), self._build()
        self._pass_epochs(used)
        restored.load_state_dict(used.state_dict())
        for some in (self.tasks, self.tasks[:1], self.tasks):
            found = []
            for weighting in (used, restored):
                torch.manual_seed(1)
                if isinstance(weighting, LossWeighting):
                    found.append(factors(weighting, losses(some)))
                else:
                    found.append(self._use(weighting, some).tolist())
                self._pass_epochs(weighting)
            assert found[0] == found[1], "what it has learnt is not all in its state_dict"

    def test_the_same_seed_gives_the_same(self) -> None:
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            weighting = self._build()
            found.append(torch.stack([self._use(weighting, self.tasks).sum() for _ in range(3)]))
        assert torch.equal(*found), "the same seed gave something else"

    def _build(self) -> Weighting:
        return self.config.build(list(self.tasks))

    def _use(self, weighting: Weighting, tasks: Sequence[str]) -> Tensor:
        """What a weighting gives for some tasks."""
        if isinstance(weighting, LossWeighting):
            return checked_total(weighting(losses(tasks))).detach()
        gradients = torch.randn(len(tasks), NUMBERS)
        return checked_gradient(weighting(gradients, list(tasks)), dict(zip(tasks, gradients, strict=True)))

    def _pass_epochs(self, weighting: Weighting) -> None:
        """Use a weighting for some epochs, in which losses fall at different speeds."""
        for epoch in range(1, 4):
            if not isinstance(weighting, LossWeighting):
                self._use(weighting, self.tasks)
                continue
            weighting(losses(self.tasks, shift=1 / epoch))
            if weighting.reads_losses_after_step:
                weighting.after_step(
                    {task: loss.detach() for task, loss in losses(self.tasks, shift=0.5 / epoch).items()}
                )
            weighting.end_epoch({task: 1 / (epoch + number) for number, task in enumerate(self.tasks)})


def losses(tasks: Sequence[str], *, shift: float = 0.0) -> dict[str, Tensor]:
    """A loss for each task, all different."""
    return {task: torch.tensor(0.5 + number + shift, requires_grad=True) for number, task in enumerate(tasks)}


def factors(weighting: LossWeighting, given: dict[str, Tensor]) -> list[float]:
    """The derivatives of the total by each loss."""
    total = checked_total(weighting(given))
    return [float(one) for one in torch.autograd.grad(total, list(given.values()))]
