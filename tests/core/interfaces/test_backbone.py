"""A backbone is its stages: calling it folds them, in order, each with the mask."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from topwork.interfaces.backbone import Backbone, BackboneConfig, Stage


class Recorder(Backbone):
    """A backbone whose stages write down what they are given."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor, Tensor]] = []
        self.table = nn.Embedding(10, 3)

    def stages(self) -> Sequence[Stage]:
        return [
            Stage("embed", (self.table,), self._embed, mixes_tokens=False),
            Stage("double", (), lambda hidden, mask: self._note("double", hidden, mask) * 2, mixes_tokens=False),
            Stage("add one", (), lambda hidden, mask: self._note("add one", hidden, mask) + 1, mixes_tokens=False),
        ]

    def _embed(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        embedded: Tensor = self.table(self._note("embed", token_ids, mask))
        return embedded

    def _note(self, name: str, hidden: Tensor, mask: Tensor) -> Tensor:
        self.seen.append((name, hidden, mask))
        return hidden

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        return {}

    def save(self, folder: Path) -> None:
        """Nothing is needed."""


def test_stages_are_run_in_order_each_on_what_the_one_before_gave() -> None:
    backbone, ids = Recorder(), torch.tensor([[1, 2], [3, 0]])
    mask = torch.tensor([[True, True], [True, False]])
    hidden = backbone(ids, mask)
    embedded = backbone.table(ids)
    assert [name for name, _, _ in backbone.seen] == ["embed", "double", "add one"]
    assert all(seen is mask for _, _, seen in backbone.seen)
    for (_, given, _), wanted in zip(backbone.seen, (ids, embedded, embedded * 2), strict=True):
        assert torch.equal(given, wanted)
    assert torch.equal(hidden, embedded * 2 + 1)


def test_a_stage_belongs_to_no_layer_and_has_no_shortcut_unless_it_says_so() -> None:
    first = Recorder().stages()[0]
    assert (first.layer, first.run_first_token) == (None, None)


@pytest.mark.parametrize("missing", ["stages", "architecture", "save"])
def test_a_backbone_that_leaves_something_out_cannot_be_built(missing: str) -> None:
    methods = {name: getattr(Recorder, name) for name in ("stages", "architecture", "save") if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (Backbone,), methods)()


def test_the_settings_of_a_backbone_build_and_restore_it() -> None:
    assert BackboneConfig.__abstractmethods__ == {"build", "restore"}
