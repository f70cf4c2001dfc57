"""A trial that kills its workers costs itself alone."""

from pathlib import Path

import pytest

from study_helpers import run_study

pytestmark = pytest.mark.slow


DEADLY = """\
import os, signal
from typing import Literal
import topwork
from topwork_plugins.heads.binary import BinaryConfig

class DeadlyConfig(BinaryConfig):
    kind: Literal["deadly"] = "deadly"

    def build(self, width, labels):
        head = super().build(width, labels)
        def loss(outputs, targets):
            if outputs.requires_grad and len(outputs) > 8:  # not yet when the head is tried
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
            return head.loss(outputs, targets)
        return topwork.Head(module=head.module, loss=loss, decode=head.decode, metrics=head.metrics)

@topwork.hookimpl
def register_heads(register):
    register(DeadlyConfig)
"""


def test_a_trial_that_kills_its_workers_fails_and_the_study_goes_on(
    monkeypatch: pytest.MonkeyPatch, installed: Path, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    (plugins / "deadly-1.0.dist-info").mkdir(parents=True)
    (plugins / "deadly.py").write_text(DEADLY)
    (plugins / "deadly-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (plugins / "deadly-1.0.dist-info" / "entry_points.txt").write_text("[topwork]\ndeadly = deadly\n")
    monkeypatch.syspath_prepend(plugins)
    search = {"tasks.sentiment.head": {"choices": [{"kind": "binary"}, {"kind": "deadly"}]}}
    result = run_study(search=search, sampler="grid", trials=2, workers=1)
    assert [(trial.state, trial.reason) for trial in result.trials] == [
        ("complete", ""),
        ("failed", "its process died 3 times, perhaps for want of memory"),
    ]
