"""A plugin file with a head, whose text differs by the bias that its module adds."""

import sys
from pathlib import Path

import pytest

from topwork.plugin_file import MODULE_PREFIX

HEAD = '''"""A head of one layer."""

from typing import Literal

from torch import Tensor, nn

import topwork


class Shifted(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layer(vectors) + BIAS


class ShiftedConfig(topwork.HeadConfig):
    kind: Literal["shifted"] = "shifted"

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        classes = len(labels.names)
        return topwork.Head(
            module=Shifted(width, classes),
            loss=nn.functional.cross_entropy,
            decode=topwork.decode_logits(labels),
            metrics=topwork.class_metrics(classes),
        )


@topwork.hookimpl
def register_heads(register):
    register(ShiftedConfig)
'''

#: The setting that puts it into the small experiment.
SHIFTED = "tasks.category.head={kind: shifted}"


def write_head(path: Path, bias: str = "0.0") -> Path:
    """Write the file."""
    path.write_text(HEAD.replace("BIAS", bias))
    return path


def forget(patch: pytest.MonkeyPatch) -> None:
    """Let plugin files that have run in this process be unknown to it, as to one that begins."""
    for name in [name for name in sys.modules if name.startswith(MODULE_PREFIX)]:
        patch.delitem(sys.modules, name)
