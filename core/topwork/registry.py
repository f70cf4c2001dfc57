"""Find the installed plugins.

``discover()`` returns a plain value; nothing is kept between calls. Shipped plugins are found as anybody's
are. Nothing wins in silence: what is broken or claimed twice is left out, and named in ``Registry.problems``
and in the message of the experiment that asks for it.
"""

import inspect
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar, get_origin

import pluggy
import torch

from topwork.errors import PluginError, describe, did_you_mean, first_line, quote, text_of
from topwork.interfaces.backbone import BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import HeadConfig
from topwork.interfaces.hookspecs import INTERFACE_VERSION, PROJECT, HookSpecs
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import PluginConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.interfaces.sampler import SamplerConfig

ConfigT = TypeVar("ConfigT", bound=PluginConfig)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin(Generic[ConfigT]):
    """One registered config class and the package it comes from."""

    interface: str
    kind: str
    config: type[ConfigT]
    package: str
    version: str


class Catalog(Generic[ConfigT]):
    """The plugins of one interface, by kind."""

    def __init__(self, interface: str, base: type[PluginConfig]) -> None:
        self.interface = interface
        self.base = base
        self.plugins: dict[str, Plugin[ConfigT]] = {}
        self.conflicts: dict[str, str] = {}

    def check(self, config: object) -> str:
        """Return the kind of ``config``, or raise PluginError where it breaks the interface."""
        if not (isinstance(config, type) and issubclass(config, self.base)):
            raise PluginError(f"a {self.interface} must be a subclass of {self.base.__name__}, got {config!r}")
        if inspect.isabstract(config):
            missing = ", ".join(sorted(config.__abstractmethods__))
            raise PluginError(f"{config.__name__} does not implement {missing}")
        kind = config.model_fields["kind"]
        if get_origin(kind.annotation) is not Literal or not isinstance(kind.default, str):
            raise PluginError(f'{config.__name__} needs a field like `kind: Literal["x"] = "x"`')
        return kind.default

    def add(self, plugin: Plugin[ConfigT]) -> None:
        """Add ``plugin``; where its kind is taken, nobody has it."""
        rival = self.plugins.pop(plugin.kind, None)
        if rival is None and plugin.kind not in self.conflicts:
            self.plugins[plugin.kind] = plugin
            return
        owners = rival.package if rival else self.conflicts[plugin.kind]
        self.conflicts[plugin.kind] = f"{owners} and {plugin.package}"

    def parse(self, raw: object, *, problems: list[str]) -> ConfigT:
        """Validate ``raw``, a mapping with a ``kind``, with the config class of that kind.

        Raises:
            ValueError: no such kind is installed, or two packages claim it.
            pydantic.ValidationError: a setting is wrong.
            PluginError: a setting cannot be written as JSON.
        """
        if not isinstance(raw, dict) or "kind" not in raw:
            article = "an" if self.interface.startswith("o") else "a"
            raise ValueError(f"{article} {self.interface} is a mapping with a kind, such as {{kind: {self.example}}}")
        kind = raw["kind"]
        if isinstance(kind, str) and kind in self.conflicts:
            raise ValueError(f"{self.conflict(kind)}; uninstall one of them")
        if not isinstance(kind, str) or kind not in self.plugins:
            installed = ", ".join(sorted(self.plugins)) or "none"
            message = f"no {self.interface} of kind {quote(kind)} is installed, only {installed}"
            raise ValueError("\n".join([message + did_you_mean(str(kind), self.plugins), *problems]))
        config = self.plugins[kind].config.model_validate(raw)
        check_settings(config)
        return config

    @property
    def example(self) -> str:
        """The name of some installed kind."""
        return min(self.plugins, default="...")

    def conflict(self, kind: str) -> str:
        """Say who claims ``kind``."""
        return f"{self.interface} {kind!r} is offered by several packages: {self.conflicts[kind]}"


@dataclass(frozen=True)
class Registry:
    """Everything that is installed, one catalog per interface."""

    backbones: Catalog[BackboneConfig] = field(default_factory=lambda: Catalog("backbone", BackboneConfig))
    poolings: Catalog[PoolingConfig] = field(default_factory=lambda: Catalog("pooling", PoolingConfig))
    heads: Catalog[HeadConfig] = field(default_factory=lambda: Catalog("head", HeadConfig))
    freeze_strategies: Catalog[FreezeStrategyConfig] = field(
        default_factory=lambda: Catalog("freeze strategy", FreezeStrategyConfig)
    )
    optimizer_groupings: Catalog[OptimizerGroupingConfig] = field(
        default_factory=lambda: Catalog("optimizer grouping", OptimizerGroupingConfig)
    )
    samplers: Catalog[SamplerConfig] = field(default_factory=lambda: Catalog("sampler", SamplerConfig))
    loss_weightings: Catalog[LossWeightingConfig] = field(
        default_factory=lambda: Catalog("loss weighting", LossWeightingConfig)
    )
    problems: list[str] = field(default_factory=list)

    def catalogs(self) -> dict[str, Catalog[Any]]:
        """The seven catalogs, by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "problems"}

    def plugins(self) -> Iterator[Plugin[Any]]:
        """Every usable plugin, interface by interface, kinds sorted."""
        for catalog in self.catalogs().values():
            yield from (catalog.plugins[kind] for kind in sorted(catalog.plugins))


def check_settings(config: PluginConfig) -> None:
    """Check that settings can be written as JSON and read again, as every run and every model does.

    Raises:
        PluginError: they cannot; says which.
    """
    try:
        written = config.model_dump(mode="json")
        json.dumps(written)
        again = type(config).model_validate(written).model_dump(mode="json")
    except Exception as error:  # a serializer of the plugin's own may raise anything
        raise PluginError(_unwritable(config, describe(error))) from error
    changed = [name for name, value in written.items() if value != again[name] and value == value]
    if changed:
        raise PluginError(_unwritable(config, f"{', '.join(changed)} is read as something else"))


def _unwritable(config: PluginConfig, why: str) -> str:
    plugin = f"plugin {config.kind!r} of {package_of(type(config))}"
    return f"{plugin}: its settings must be written as JSON and read again, but cannot: {why}"


def package_of(config: type[PluginConfig]) -> str:
    """Name the installed package and version that a config class comes from, or else its module."""
    top = config.__module__.partition(".")[0]
    found = next((one for one in entry_points(group=PROJECT) if one.module.partition(".")[0] == top), None)
    return f"package {_package(found)}" if found else f"module {config.__module__}"


@contextmanager
def unchanged_torch_settings() -> Iterator[None]:
    """Put torch's global settings back to what they were before a plugin's code ran.

    Raises:
        PluginError: it changed them; says which.
    """
    before = _torch_settings()
    try:
        yield
    finally:
        changed = {name: value for name, value in _torch_settings().items() if value != before[name]}
        for name in changed:
            _TORCH_SETTINGS[name][1](before[name])
    if changed:
        found = " and ".join(f"{name} from {before[name]} to {value}" for name, value in changed.items())
        raise PluginError(f"it changes torch's {found}, which every other plugin would meet")


def _torch_settings() -> dict[str, Any]:
    return {name: get() for name, (get, _) in _TORCH_SETTINGS.items()}


#: Torch's global settings by name, and how each is read and set.
_TORCH_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
}


def discover() -> Registry:
    """Load every plugin installed under the entry-point group ``topwork``."""
    registry = Registry()
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=PROJECT):
        by_name[entry.name].append(entry)
    for name, claimants in sorted(by_name.items()):
        packages = sorted({_package(entry) for entry in claimants})
        if len(claimants) > 1:
            registry.problems.append(f"several packages offer a plugin named {name!r}: {' and '.join(packages)}")
            continue
        try:
            with unchanged_torch_settings():
                plugins = _load(claimants.pop(), registry)
        except (Exception, SystemExit) as error:  # a plugin may do anything when it is imported
            registry.problems.append(f"plugin {name!r} of package {packages[0]} is broken: {_brief(error)}")
            logger.debug("plugin %r", name, exc_info=error)
            continue
        for field_name, plugin in plugins:
            registry.catalogs()[field_name].add(plugin)
    for catalog in registry.catalogs().values():
        registry.problems.extend(catalog.conflict(kind) for kind in catalog.conflicts)
    return registry


def _load(entry: EntryPoint, registry: Registry) -> list[tuple[str, Plugin[Any]]]:
    """Import one plugin module and collect what its hooks register, with the name of each one's catalog.

    A manager of its own for each module: what one plugin does wrong cannot touch another.
    """
    module: ModuleType = entry.load()
    version = getattr(module, "TOPWORK_INTERFACE", 1)
    if not isinstance(version, int):
        raise PluginError(f"TOPWORK_INTERFACE must be a whole number such as {INTERFACE_VERSION}, got {version!r:.60}")
    if version != INTERFACE_VERSION:
        raise PluginError(f"it was written for interface {version}, this topwork has interface {INTERFACE_VERSION}")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name=entry.name)
    manager.check_pending()

    collected: list[tuple[str, Plugin[Any]]] = []
    package = _name_and_version(entry.dist)

    def register(field_name: str, config: type[PluginConfig]) -> None:
        catalog = registry.catalogs()[field_name]
        kind = catalog.check(config)
        if any((name, plugin.kind) == (field_name, kind) for name, plugin in collected):
            raise PluginError(f"it registers {catalog.interface} {kind!r} twice")
        collected.append((field_name, Plugin(catalog.interface, kind, config, *package)))

    for field_name in registry.catalogs():
        for implementation in getattr(manager.hook, f"register_{field_name}").get_hookimpls():
            implementation.function(register=partial(register, field_name))
    if not collected:
        raise PluginError("it registers nothing; is a hook missing its @topwork.hookimpl?")
    return collected


def _package(entry: EntryPoint) -> str:
    return " ".join(_name_and_version(entry.dist))


@lru_cache(maxsize=64)
def _name_and_version(package: Distribution | None) -> tuple[str, str]:
    """What an installed package is called. To ask it reads and parses a file, the same for each of its plugins."""
    return (package.metadata["Name"], package.metadata["Version"]) if package else ("?", "?")


def _brief(error: BaseException) -> str:
    """One line for an exception: its type unless we raised it, and its message."""
    if isinstance(error, PluginError):
        return first_line(error)
    if isinstance(error, pluggy.PluginValidationError):  # its lines are one sentence
        return f"{type(error).__name__}: {' '.join(text_of(error).splitlines())}"
    return describe(error)
