"""Every extension point of topwork, on one page.

A plugin package names a module in the entry-point group ``topwork``. The module implements one or more of
these hooks, each called by ``discover()`` with a function to register config classes with.
"""

from typing import Protocol, TypeVar, runtime_checkable

import pluggy

from topwork.interfaces.backbone import BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import HeadConfig
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import PluginConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.interfaces.sampler import SamplerConfig

#: The pluggy project name and the entry-point group.
PROJECT = "topwork"

#: A plugin module may state the version it was written for: ``TOPWORK_INTERFACE = 1``. Without it, 1 is meant.
INTERFACE_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

ConfigT_contra = TypeVar("ConfigT_contra", bound=PluginConfig, contravariant=True)


@runtime_checkable
class Register(Protocol[ConfigT_contra]):
    """What a hook is handed: call it with each config class that the plugin offers."""

    def __call__(self, config: type[ConfigT_contra], /) -> None: ...


class HookSpecs:
    """The seven hooks."""

    @hookspec
    def register_backbones(self, register: Register[BackboneConfig]) -> None:
        """Call ``register(MyBackboneConfig)`` once for each backbone this plugin offers."""

    @hookspec
    def register_poolings(self, register: Register[PoolingConfig]) -> None:
        """Call ``register(MyPoolingConfig)`` once for each pooling this plugin offers."""

    @hookspec
    def register_heads(self, register: Register[HeadConfig]) -> None:
        """Call ``register(MyHeadConfig)`` once for each head this plugin offers."""

    @hookspec
    def register_freeze_strategies(self, register: Register[FreezeStrategyConfig]) -> None:
        """Call ``register(MyFreezeStrategyConfig)`` once for each freeze strategy this plugin offers."""

    @hookspec
    def register_optimizer_groupings(self, register: Register[OptimizerGroupingConfig]) -> None:
        """Call ``register(MyOptimizerGroupingConfig)`` once for each optimizer grouping this plugin offers."""

    @hookspec
    def register_samplers(self, register: Register[SamplerConfig]) -> None:
        """Call ``register(MySamplerConfig)`` once for each sampler this plugin offers."""

    @hookspec
    def register_loss_weightings(self, register: Register[LossWeightingConfig]) -> None:
        """Call ``register(MyLossWeightingConfig)`` once for each loss weighting this plugin offers."""
