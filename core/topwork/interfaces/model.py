"""What freeze strategies and optimizer groupings may read of the model."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn

from topwork.interfaces.backbone import Backbone
from topwork.interfaces.pooling import Pooling


@runtime_checkable
class Model(Protocol):
    """A backbone, a pooling, and one head per task.

    Parameter names start with ``backbone.``, ``pooling.`` or ``heads.<task>.``; after ``backbone.`` they
    are the names that the backbone's own library prints: ``backbone.transformer.layer.5.ffn.lin1.weight``.
    """

    @property
    def backbone(self) -> Backbone: ...
    @property
    def pooling(self) -> Pooling: ...
    @property
    def heads(self) -> nn.ModuleDict: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter once, with its full name."""
