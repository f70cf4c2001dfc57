"""What an optimizer grouping must keep to."""

import math
from collections.abc import Iterator
from typing import ClassVar

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import check_partition
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.testing.plugin import PluginContract
from topwork.testing.tiny import WeightedMean, snapshot, tiny_model


class OptimizerGroupingContract(PluginContract):
    """A grouping divides what trains, whatever that is."""

    config: ClassVar[OptimizerGroupingConfig]

    def test_every_trainable_parameter_is_in_exactly_one_group(self) -> None:
        for model in self._models():
            groups = [group for group in self.config.groups(model) if group.parameters]
            check_partition(model, groups)

    def test_rates_and_decays_are_finite_and_not_negative(self) -> None:
        for model in self._models():
            for group in self.config.groups(model):
                for name in ("learning_rate", "weight_decay"):
                    value = getattr(group, name)
                    assert 0 <= value < math.inf, f"{name} of group {group.name} must be a number from 0, got {value}"

    def test_the_answer_does_not_depend_on_what_was_asked_before(self) -> None:
        models = list(self._models())
        answers = [list(self.config.groups(model)) for model in models]
        again = [list(self.config.groups(model)) for model in reversed(models)]
        assert again == answers[::-1], f"groups must depend on the model alone, got {answers[::-1]}, then {again}"

    def test_it_touches_nothing(self) -> None:
        for model in self._models():
            before = snapshot(model)
            self.config.groups(model)
            assert snapshot(model) == before, "groups must change nothing of the model"

    def _models(self) -> Iterator[MultiTaskModel]:
        """Models of whose backbone nothing, something or everything trains, with a pooling that trains and without."""
        for pooling in (None, WeightedMean()):
            for parts in ((), (".layer.1.",), (".",)):
                model = tiny_model(pooling)
                names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
                model.set_trainable([name for name in names if any(part in name for part in parts)])
                yield model
