"""There is one hook for each catalog of the registry, and each is called with a function to register with."""

import inspect
from collections.abc import Callable
from typing import get_args, get_type_hints

import pluggy
import pytest

from topwork.interfaces.hookspecs import INTERFACE_VERSION, PROJECT, HookSpecs, hookimpl
from topwork.registry import Registry

HOOKS: dict[str, Callable[..., None]] = {
    name: function for name, function in vars(HookSpecs).items() if name.startswith("register_")
}


def test_there_is_one_hook_for_each_catalog() -> None:
    assert list(HOOKS) == [f"register_{name}" for name in Registry().catalogs()]


@pytest.mark.parametrize(("name", "hook"), HOOKS.items())
def test_a_hook_registers_settings_of_its_interface(name: str, hook: Callable[..., None]) -> None:
    assert list(inspect.signature(hook).parameters) == ["self", "register"]
    (base,) = get_args(get_type_hints(hook)["register"])
    catalog = Registry().catalogs()[name.removeprefix("register_")]
    assert base is catalog.base
    assert f"register(My{base.__name__})" in (hook.__doc__ or "")


@pytest.mark.parametrize("name", HOOKS)
def test_an_implementation_is_called_with_the_function_it_is_handed(name: str) -> None:
    called: list[object] = []

    @hookimpl
    def implementation(register: object) -> None:
        called.append(register)

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(type("Module", (), {name: staticmethod(implementation)}))
    manager.check_pending()
    getattr(manager.hook, name)(register="the function")
    assert called == ["the function"]


def test_the_interface_has_a_version() -> None:
    assert INTERFACE_VERSION == 1
