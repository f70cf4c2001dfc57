"""Say whose mistake a failure is: the researcher's, or which plugin's of which package, and where in its code."""

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from topwork.errors import ConfigurationError, PluginError, TopworkError, describe, quote, text_of
from topwork.interfaces.plugin import PluginConfig
from topwork.registry import is_of_package, line_in_package, package_of, unchanged_torch_settings

#: What MLflow takes as part of a metric's name.
METRIC_NAME = r"[\w. -]+"


@contextmanager
def plugin_errors(config: PluginConfig, where: str) -> Iterator[None]:
    """Say where a plugin's settings stand when it fails: a ValueError is the researcher's, anything else the plugin's.

    Raises:
        ConfigurationError: a setting does not fit.
        PluginError: the plugin breaks its interface, fails, or changes torch's global settings; says which plugin of
            which package, and where in its code.
        TopworkError: any other that the plugin raises, with ``where`` before it.
    """
    try:
        with unchanged_torch_settings():
            yield
    except PluginError as error:
        raise PluginError(text_of(error)).located(named(where, plugin_of(config, error))) from error
    except TopworkError as error:
        error.located(where)
        raise
    except ValueError as error:
        raise ConfigurationError(text_of(error)).located(where) from error
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        raise PluginError(describe(error)).located(named(where, plugin_of(config, error))) from error


@contextmanager
def errors_of_plugins(configs: Mapping[str, PluginConfig], running: Callable[[], str]) -> Iterator[None]:
    """Say whose an error is that arises in the code of one of several plugins.

    Args:
        configs: of the plugins, by where their settings stand.
        running: says of which the code ran last; of several that share a module, it is taken for that one's.

    Raises:
        PluginError: it does. Any other error, and want of memory, is raised as it is.
    """
    try:
        yield
    except TopworkError:
        raise
    except Exception as error:  # a plugin may raise anything
        if is_out_of_memory(error):
            raise
        candidates = sorted(configs.items(), key=lambda one: one[0] != running())
        modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        for belongs in (operator.eq, is_of_package):  # in the plugin's own module, or else in its package
            for module, (where, config) in product(reversed(modules), candidates):
                if belongs(module, type(config).__module__):
                    raise PluginError(describe(error)).located(named(where, plugin_of(config, error))) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, nobody's mistake; torch's of the CPU has no type of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def check_built(built: object, expected: type) -> None:
    """Check what a config's ``build`` gave.

    Raises:
        PluginError: it is of another type.
    """
    if not isinstance(built, expected):
        raise PluginError(f"build must give a {expected.__name__}, got {built!r:.60}")


def check_state(module: nn.Module, *, extra: bool = False) -> None:
    """Check that a module's parameters and buffers can be trained, saved and loaded.

    Args:
        extra: whether ``get_extra_state`` may give numbers, texts and tensors in dicts and lists.

    Raises:
        PluginError: names those that cannot.
    """
    for name, value in module.state_dict(keep_vars=True).items():
        if extra and name.rpartition(".")[2] == "_extra_state":
            if not _can_be_written(value):
                raise PluginError(
                    "get_extra_state must give numbers, texts and tensors in dicts and lists, got " + quote(value)
                )
            continue
        if is_lazy(value):
            raise PluginError(f"{name} has no shape yet; give lazy modules their sizes, which build knows")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
            raise PluginError(f"{name} must be a dense tensor of real numbers to be saved, got {quote(value)}")


def _can_be_written(value: object) -> bool:
    """Whether a value is made of what JSON has, and dense tensors of real numbers."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _can_be_written(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_can_be_written, value))
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not value.is_complex()
    return value is None or isinstance(value, bool | int | float | str)


def plugin_of(config: PluginConfig, error: BaseException | None = None) -> str:
    """Name a plugin, its package, and the line of its code in which an error arose, or its settings begin."""
    return f"plugin {config.kind!r} of {package_of(type(config))}, {_line_of(type(config), error)}"


def named(where: str, name: str) -> str:
    """Put the place of the settings, where it is known, before a plugin's name."""
    return f"{where}: {name}" if where else name


def _line_of(config: type[PluginConfig], error: BaseException | None) -> str:
    """Return ``file:line`` of the innermost call within the plugin's package, or else of its config class."""
    if found := line_in_package(error, config.__module__):
        return found
    try:
        return f"{inspect.getsourcefile(config)}:{inspect.getsourcelines(config)[1]}"
    except (OSError, TypeError):  # made where there is no file, such as in a notebook
        return f"class {config.__name__}"
