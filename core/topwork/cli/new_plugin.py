"""``topwork new head NAME``, and the same for every other interface."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from topwork.cli.tables import console
from topwork.errors import ConfigurationError, quote
from topwork.experiment.plugin_entry import CATALOGS
from topwork.files import exists_error, new_folder, write_file
from topwork.registry import Registry

#: What a plugin may be called; a module, a class and a package are named after it.
NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")

#: The entries of the example experiment, but for the plugin's own.
ENTRIES = {"backbone": "{kind: minilm}", "pooling": "{kind: mean}", "freeze": "{kind: all}"}


def new_plugin(interface: str, name: str, registry: Registry) -> None:
    """Write a package with one plugin, or, where the name ends in ``.py``, a single file.

    Raises:
        ConfigurationError: the name is none, or taken.
        StorageError: the folder or the file exists already, or cannot be written.
    """
    catalog = next(one for one in registry.catalogs().values() if one.interface == interface)
    path = Path(name)
    kind = path.stem if path.suffix == ".py" else name
    if not NAME.fullmatch(kind) or len(kind) > 60:
        raise ConfigurationError(
            f"a plugin is named by small letters, digits and - or _ between them, such as span-pair, or as a single "
            f"file span_pair.py; got {quote(name)}"
        )
    kind = kind.replace("-", "_")
    if kind in catalog.plugins:
        package = catalog.plugins[kind].package
        raise ConfigurationError(f"package {package} has a {interface} {kind} already; take another name")
    field = next(field for field, of_field in CATALOGS.items() if registry.catalogs()[of_field] is catalog)
    base = catalog.base.__name__.removesuffix("Config")
    values = values_of(interface, field, kind, contract=f"{base}Contract")
    if path.suffix == ".py":
        _write_file(path, interface, values)
    else:
        _write_package(Path(values["package"]), interface, values)


def values_of(interface: str, field: str, kind: str, *, contract: str) -> dict[str, str]:
    """Return what stands for what in the templates."""
    entry = f"{{kind: {kind}}}"
    others = {**ENTRIES, field: entry}
    return {
        "interface": interface,
        "article": "an" if interface[0] in "aeiou" else "a",
        "kind": kind,
        "name": "".join(part.capitalize() for part in kind.split("_")),
        "package": f"topwork-{kind.replace('_', '-')}",
        "module": f"topwork_{kind}",
        "contract": contract,
        "entry": f"{field}: {entry}",
        "head": others.pop("head", "{kind: classification}"),
        "entries": "\n".join(f"{name}: {one}" for name, one in others.items()),
    }


def fill(template: str, values: dict[str, str]) -> str:
    """Return a template with its values in it."""
    text = files("topwork.templates").joinpath(f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _write_package(folder: Path, interface: str, values: dict[str, str]) -> None:
    module = values["module"]
    contents = {
        f"{module}.py": fill(f"{interface.replace(' ', '_')}.py", values),
        f"test_{module}.py": fill("test.py", values),
        **{name: fill(name, values) for name in ("pyproject.toml", "README.md", "experiment.yaml")},
        "reviews.csv": files("topwork.templates").joinpath("reviews.csv").read_text(encoding="utf-8"),
    }
    with new_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_text(content, encoding="utf-8")
    console.print(
        f"{folder}: the {interface} is in {module}.py; next:\n"
        f"  pip install -e {folder}\n  pytest {folder}\n  topwork train {folder}/experiment.yaml",
        soft_wrap=True,
    )


def _write_file(path: Path, interface: str, values: dict[str, str]) -> None:
    if path.exists():
        raise exists_error(path)
    write_file(path, fill(f"{interface.replace(' ', '_')}.py", values).encode())
    console.print(f"{path}: name it in an experiment:\n  plugins: [{path}]\n  {values['entry']}", soft_wrap=True)
