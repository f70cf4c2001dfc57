"""What plugins of every interface must keep to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig
from topwork.plugin_file import read_plugin_file
from topwork.registry import discover

#: The columns of the vectors that plugins are tried on.
WIDTH = 12

Module = TypeVar("Module", bound=nn.Module)


class PluginContract:
    """Holds for plugins of every interface.

    Attributes:
        config: the plugin under test.
        plugin_file: the file that registers it, where that is not installed but named in experiments.
    """

    config: ClassVar[PluginConfig]
    plugin_file: ClassVar[str | Path | None] = None

    def setup_method(self) -> None:
        """Give every check the same random numbers; pytest calls this before each."""
        torch.manual_seed(0)

    def test_is_registered_under_its_kind(self) -> None:
        files = [read_plugin_file(Path(self.plugin_file))] if self.plugin_file else []
        registry = discover(files)
        registered = [plugin.config for plugin in registry.plugins() if plugin.kind == self.config.kind]
        if files:  # a module of its own is made of it, and so a class
            names = [config.__qualname__ for config in registered if config.__module__ == files[0].module]
            assert type(self.config).__qualname__ in names, f"{self.plugin_file} does not register {self.config.kind}"
        else:
            told = (
                f"{self.config.kind} must be registered by an entry point of the group topwork; installed: {registered}"
            )
            assert type(self.config) in registered, "\n".join([told, *registry.problems])

    def test_settings_survive_a_round_trip_through_a_file(self) -> None:
        for written in (self.config.model_dump(mode="json"), self.config.model_dump(mode="json", exclude_unset=True)):
            read = type(self.config).model_validate(json.loads(json.dumps(written)))
            assert read == self.config, f"settings must survive a file: {self.config!r} is read as {read!r}"

    def test_an_unknown_setting_is_refused(self) -> None:
        written = self.config.model_dump(mode="json") | {"a_setting_that_nothing_has": 1}
        try:
            read = type(self.config).model_validate(written)
        except ValidationError:
            return
        raise AssertionError(f"{written} was read as {read!r}, so that a misspelt setting would pass in silence")


def telling(sentence: str) -> Callable[[str], str]:
    """Return what puts a sentence before the differences that torch finds."""
    return lambda differences: f"{sentence}\n{differences}"


def check_gradients_reach(module: nn.Module, outputs: Tensor) -> None:
    """Check that a gradient of ``outputs`` reaches every parameter of ``module``."""
    if outputs.requires_grad:
        _any_sum_of(outputs).backward()
    without = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert not without, f"no finite gradient reaches {', '.join(without)}"


def gradient_of(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Return the gradient of some weighted sum of ``outputs`` in the shape of ``inputs``; zeros where none flows."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(_any_sum_of(outputs), inputs, allow_unused=True, materialize_grads=True)
    return gradient


def check_initial_weights(build: Callable[[], nn.Module]) -> None:
    """Check that all randomness of ``build`` is torch's global generator, which the core seeds."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build().state_dict())
    changed = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert not changed, f"the same seed gave other initial weights: {', '.join(changed)}"


def check_restored_module(build: Callable[[], Module], run: Callable[[Module], Tensor]) -> None:
    """Check that a module's parameters and buffers are all that its outputs depend on: they are all that is saved."""
    saved, restored = build().eval(), build().eval()
    restored.load_state_dict(saved.state_dict())
    assert torch.equal(run(restored), run(saved)), "its outputs depend on something besides parameters and buffers"


def _any_sum_of(outputs: Tensor) -> Tensor:
    # Weighted at random, because a plain sum may be constant, as that of a normalized vector is.
    return (outputs * torch.randn_like(outputs)).sum()
