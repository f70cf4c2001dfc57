"""What a freeze strategy must keep to."""

from typing import ClassVar

import torch

from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.testing.plugin import PluginContract
from topwork.testing.tiny import snapshot, tiny_model

#: The first epochs, in which most happens, and some far later.
EPOCHS = (1, 2, 3, 10, 100)


class FreezeStrategyContract(PluginContract):
    """A freeze strategy names parameters and touches none.

    Attributes:
        config: a strategy that fits ``tiny_model()``, whose layers are ``layer.0`` and ``layer.1``.
    """

    config: ClassVar[FreezeStrategyConfig]

    def test_it_names_parameters_of_the_backbone_in_every_epoch(self) -> None:
        model = tiny_model()
        names = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
        for epoch in EPOCHS:
            others = sorted(set(self.config.trainable(model, epoch)) - names)
            assert not others, f"trainable must name parameters of the backbone, got {others} in epoch {epoch}"

    def test_what_trains_changes_only_in_the_epochs_that_it_says(self) -> None:
        model = tiny_model()
        starts = set(self.config.phase_starts(model, EPOCHS[-1]))
        answers = {epoch: set(self.config.trainable(model, epoch)) for epoch in range(1, EPOCHS[-1] + 1)}
        changes = {epoch for epoch in answers if epoch > 1 and answers[epoch] != answers[epoch - 1]}
        assert changes <= starts, f"phase_starts leaves out {sorted(changes - starts)}"

    def test_the_answer_does_not_depend_on_what_was_asked_before(self) -> None:
        model = tiny_model()
        answers = {epoch: set(self.config.trainable(model, epoch)) for epoch in EPOCHS}
        again = {epoch: set(self.config.trainable(tiny_model(), epoch)) for epoch in reversed(EPOCHS)}
        assert again == answers, f"trainable must depend on model and epoch alone, got {answers}, then {again}"

    def test_the_answer_does_not_depend_on_what_trains_now(self) -> None:
        model = tiny_model()
        answers = []
        for trains in ([], [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]):
            model.set_trainable(trains)
            answers.append([set(self.config.trainable(model, epoch)) for epoch in EPOCHS])
        assert answers[0] == answers[1], "trainable must not depend on what trains now: name parameters by themselves"

    def test_what_it_adds_changes_nothing_at_first_and_is_gone_in_the_end(self) -> None:
        backbone = tiny_model().backbone.eval()
        ids, mask = torch.randint(3, 50, (3, 6)), torch.ones(3, 6, dtype=torch.bool)
        names, before = [name for name, _ in backbone.named_parameters()], backbone(ids, mask)
        self.config.adapt(backbone)
        torch.testing.assert_close(backbone.eval()(ids, mask), before, msg="adapt changes what the backbone gives")
        added = [name for name, _ in backbone.named_parameters() if name not in names]
        assert self.config.adapts_backbone or not added, "it adds parameters, so adapts_backbone must be True"
        self.config.finish(backbone)
        assert [name for name, _ in backbone.named_parameters()] == names, "finish leaves other parameters"
        torch.testing.assert_close(backbone.eval()(ids, mask), before, msg="finish changes what the backbone gives")

    def test_it_touches_nothing(self) -> None:
        model = tiny_model()
        before = snapshot(model)
        for epoch in EPOCHS:
            self.config.trainable(model, epoch)
        assert snapshot(model) == before, "trainable must change nothing: the core sets requires_grad"
