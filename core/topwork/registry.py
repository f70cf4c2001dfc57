"""Find the installed plugins.

``discover()`` returns a plain value; nothing is kept between calls. Shipped plugins are found as anybody's
are. Nothing wins in silence: what is broken or claimed twice is left out, and named in ``Registry.problems``
and in the message of the experiment that asks for it. Single files that an experiment names are registered the
same way; since it cannot do without them, what is broken in one is an error at once.
"""

import copy
import inspect
import json
import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import pluggy
import torch

from topwork.errors import PluginError, describe, did_you_mean, first_line, quote, text_of
from topwork.interfaces.backbone import BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import HeadConfig, Reading
from topwork.interfaces.hookspecs import INTERFACE_VERSION, PROJECT, HookSpecs
from topwork.interfaces.labels import Classes, LabelSet, Numbers, WordLabels
from topwork.interfaces.labels import Distribution as SharesOfClasses
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import PluginConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.interfaces.sampler import SamplerConfig
from topwork.plugin_file import PluginFile, import_plugin_file, name_of_module

ConfigT = TypeVar("ConfigT", bound=PluginConfig)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin(Generic[ConfigT]):
    """One registered config class and the package it comes from; of a single file the file's name and sha256."""

    interface: str
    kind: str
    config: type[ConfigT]
    package: str
    version: str

    @property
    def is_installed(self) -> bool:
        """Whether it comes from an installed package."""
        return name_of_module(self.config.__module__) is None


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
            got = config.__qualname__ if isinstance(config, type) else quote(config)
            raise PluginError(f"a {self.interface} must be a subclass of {self.base.__name__}, got {got}")
        if inspect.isabstract(config):
            missing = ", ".join(sorted(config.__abstractmethods__))
            raise PluginError(f"{config.__name__} does not implement {missing}")
        kind = config.model_fields["kind"]
        if get_origin(kind.annotation) is not Literal or not isinstance(kind.default, str):
            raise PluginError(f'{config.__name__} needs a field like `kind: Literal["x"] = "x"`')
        if issubclass(config, HeadConfig):
            check_class_variables(config)
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
            raise ValueError(f"{self.conflict(kind)}; remove one of them, or give it another kind")
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
        return f"{self.interface} {kind!r} is offered more than once: by {self.conflicts[kind]}"


@dataclass(frozen=True)
class Registry:
    """Everything that is installed, one catalog per interface.

    Attributes:
        files: that are not installed, but were named.
        problems: what is wrong with installed packages.
    """

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
    files: list[PluginFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def catalogs(self) -> dict[str, Catalog[Any]]:
        """The seven catalogs, by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("files", "problems")}

    def plugins(self) -> Iterator[Plugin[Any]]:
        """Every usable plugin, interface by interface, kinds sorted."""
        for catalog in self.catalogs().values():
            yield from (catalog.plugins[kind] for kind in sorted(catalog.plugins))


def check_class_variables(config: type[HeadConfig]) -> None:
    """Check what a head says of itself beside its settings.

    Raises:
        PluginError: it is not as the interface wants it.
    """
    if fields := {"label_spaces", "reads"} & config.model_fields.keys():
        raise PluginError(
            f"{', '.join(sorted(fields))} of {config.__name__} is no setting: write it as typing.ClassVar"
        )
    spaces: object = config.label_spaces
    known = (Classes, LabelSet, Numbers, SharesOfClasses, WordLabels)
    if not isinstance(spaces, tuple) or not spaces or not all(space in known for space in spaces):
        names = ", ".join(f"topwork.{space.__name__}" for space in known)
        raise PluginError(
            f"label_spaces of {config.__name__} must be a tuple of some of {names}, such as (topwork.Numbers,), got "
            f"{quote(spaces)}"
        )
    if config.reads not in get_args(Reading):
        raise PluginError(
            f"reads of {config.__name__} must be one of {', '.join(get_args(Reading))}, got {quote(config.reads)}"
        )


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
    """Name the installed package and version that a config class comes from, or else its file or module."""
    if file := name_of_module(config.__module__):
        return f"file {file}"
    top = config.__module__.partition(".")[0]
    found = next((one for one in entry_points(group=PROJECT) if one.module.partition(".")[0] == top), None)
    return f"package {_package(found)}" if found else f"module {config.__module__}"


class ChangedSettingsError(PluginError):
    """A plugin's code changed torch's global settings."""


@contextmanager
def unchanged_torch_settings() -> Iterator[None]:
    """Put torch's global settings back to what they were before a plugin's code ran.

    Raises:
        ChangedSettingsError: it changed them; says which.
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
        raise ChangedSettingsError(f"it changes torch's {found}, which every other plugin would meet")


def _torch_settings() -> dict[str, Any]:
    return {name: get() for name, (get, _) in _TORCH_SETTINGS.items()}


#: Torch's global settings by name, and how each is read and set.
_TORCH_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
}


def discover(files: Sequence[PluginFile] = ()) -> Registry:
    """Load every plugin installed under the entry-point group ``topwork``, and those of single files.

    Raises:
        PluginError: something is wrong with some of the files; says what and where.
    """
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
                plugins = _collect(claimants[0].load(), *_name_and_version(claimants[0].dist), registry)
        except (Exception, SystemExit) as error:  # a plugin may do anything when it is imported
            why = f"{_brief(error)}{_place_of(error, claimants[0].module)}"
            registry.problems.append(f"plugin {name!r} of package {packages[0]} is broken: {why}")
            logger.debug("plugin %r", name, exc_info=error)
            continue
        for field_name, plugin in plugins:
            registry.catalogs()[field_name].add(plugin)
    for catalog in registry.catalogs().values():
        registry.problems.extend(catalog.conflict(kind) for kind in catalog.conflicts)
    return with_files(registry, files)


def with_files(registry: Registry, files: Sequence[PluginFile]) -> Registry:
    """Return what is registered, and the plugins of single files.

    Raises:
        PluginError: something is wrong with some of the files, or they claim a kind that another has; says where.
    """
    registry, errors = copy.deepcopy(registry), []
    for file in files:
        if file.sha256 in {known.sha256 for known in registry.files}:
            continue
        try:
            with unchanged_torch_settings():
                plugins = _collect(import_plugin_file(file), file.path.name, file.version, registry)
        except (Exception, SystemExit) as error:  # as above
            errors.append(f"plugin file {file.path} is broken: {_brief(error)}{_place_of(error, file.module)}")
            logger.debug("plugin file %s", file.path, exc_info=error)
            continue
        registry.files.append(file)
        for field_name, plugin in plugins:
            catalog = registry.catalogs()[field_name]
            catalog.add(plugin)
            if plugin.kind in catalog.conflicts:
                errors.append(f"plugin file {file.path}: {catalog.conflict(plugin.kind)}; give yours another kind")
    if errors:
        raise PluginError("\n".join(errors))
    return registry


def _collect(module: ModuleType, package: str, version_of: str, registry: Registry) -> list[tuple[str, Plugin[Any]]]:
    """Collect what the hooks of one module register, with the name of each one's catalog.

    A manager of its own for each module: what one plugin does wrong cannot touch another.
    """
    version = getattr(module, "TOPWORK_INTERFACE", 1)
    if not isinstance(version, int):
        raise PluginError(f"TOPWORK_INTERFACE must be a whole number such as {INTERFACE_VERSION}, got {version!r:.60}")
    if version != INTERFACE_VERSION:
        raise PluginError(f"it was written for interface {version}, this topwork has interface {INTERFACE_VERSION}")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name=package)
    manager.check_pending()

    collected: list[tuple[str, Plugin[Any]]] = []

    def register(field_name: str, config: type[PluginConfig]) -> None:
        catalog = registry.catalogs()[field_name]
        kind = catalog.check(config)
        if any((name, plugin.kind) == (field_name, kind) for name, plugin in collected):
            raise PluginError(f"it registers {catalog.interface} {kind!r} twice")
        collected.append((field_name, Plugin(catalog.interface, kind, config, package, version_of)))

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


def line_in_package(error: BaseException | None, module: str) -> str | None:
    """Return ``file:line`` of the innermost call of an error that is in the package of a module; None for none."""
    found = None
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            if is_of_package(frame.f_globals.get("__name__", ""), module):
                found = f"{frame.f_code.co_filename}:{line}"
        error = error.__cause__ or error.__context__
    return found


def is_of_package(module: str, other: str) -> bool:
    """Whether a module is of the package that another is of; of topwork itself, whether it is that module."""
    package = other.partition(".")[0]
    return module == other if package == PROJECT else module.partition(".")[0] == package


def _place_of(error: BaseException, module: str) -> str:
    line = line_in_package(error, module)
    return f" ({line})" if line else ""


def _brief(error: BaseException) -> str:
    """One line for an exception: its type unless we raised it, and its message."""
    if isinstance(error, PluginError):
        return first_line(error)
    if isinstance(error, pluggy.PluginValidationError):  # its lines are one sentence
        return f"{type(error).__name__}: {' '.join(text_of(error).splitlines())}"
    return describe(error)
