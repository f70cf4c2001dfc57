"""``topwork explain``: an interface, a plugin, or a setting, from its docstring and the schema."""

import inspect
from collections.abc import Mapping
from typing import Any

import topwork
from topwork.cli.new import INTERFACES
from topwork.cli.tables import console, heading, table
from topwork.errors import ConfigurationError, did_you_mean
from topwork.experiment.docstrings import summary_of
from topwork.experiment.json_schema import definition_name, experiment_schema
from topwork.experiment.plugin_entry import CATALOGS
from topwork.experiment.yaml_text import write_inline
from topwork.registry import Catalog, Plugin, Registry

#: A JSON schema, or a part of one.
Schema = Mapping[str, Any]


def explain(subject: str, registry: Registry) -> None:
    """Print all that has this name: an interface, the plugins of a kind, a setting by its path, or a public name.

    Raises:
        ConfigurationError: nothing has it; says what is near.
    """
    schema, subject = experiment_schema(registry), _as_in_messages(subject)
    by_name = registry.catalogs()
    catalogs = {catalog.interface: catalog for catalog in by_name.values()}
    plugins = [plugin for plugin in registry.plugins() if plugin.kind == subject]
    setting = find_setting(schema, subject)
    if subject in catalogs:
        _show_interface(catalogs[subject])
    for plugin in plugins:
        field = next(field for field, name in CATALOGS.items() if by_name[name].interface == plugin.interface)
        _show_plugin(plugin, catalogs[plugin.interface], field, schema)
    if setting is not None:
        _show_setting(subject, setting, schema)
    public = subject.removeprefix("topwork.")
    if public in topwork.__all__:
        heading(f"topwork.{public}")
        named = getattr(topwork, public)
        text = inspect.getdoc(named) if inspect.isclass(named) or inspect.isroutine(named) else None
        console.print(text or str(named), soft_wrap=True)
    elif subject not in catalogs and not plugins and setting is None:
        raise ConfigurationError(
            f"there is no interface, kind, setting or public name {subject!r}"
            f"{did_you_mean(subject, _known(registry, schema))}; topwork plugins lists the kinds, and topwork explain "
            "training, for one, the settings of a section; for those of a plugin file name its experiment too"
        )


def _as_in_messages(subject: str) -> str:
    """Return an interface as messages call it; the command line has no blanks in names."""
    return subject.replace("-", " ") if subject in INTERFACES else subject


def _known(registry: Registry, schema: Schema) -> list[str]:
    """Everything that can be explained, of settings those of one level and of two."""
    interfaces = [catalog.interface for catalog in registry.catalogs().values()]
    paths = [f"{name}.{inner}" for name, one in members(schema, schema).items() for inner in members(one, schema)]
    kinds = [plugin.kind for plugin in registry.plugins()]
    return [*interfaces, *kinds, *schema["properties"], *paths, *topwork.__all__]


def find_setting(schema: Schema, path: str) -> Schema | None:
    """Return the schema of a setting by its path, such as ``tasks.sentiment.head.dropout``; None where there is none.

    Of a plugin's settings it is the one of the first kind that has it.
    """
    found: Schema = schema
    for segment in path.split("."):
        inside = members(found, schema)
        if segment not in inside and "*" not in inside:
            return None
        found = inside.get(segment, inside.get("*", {}))
    return followed(found, schema)


def members(section: Schema, schema: Schema) -> dict[str, Schema]:
    """Return what a section holds, by name; ``*`` stands for any name of the researcher's own."""
    section = followed(section, schema)
    found: dict[str, Schema] = {}
    for by_kind in section.get("allOf", ()):  # a plugin's entry
        found = {**members(by_kind["then"], schema), **found}
    found |= section.get("properties", {})
    for value in (*section.get("patternProperties", {}).values(), section.get("additionalProperties")):
        if isinstance(value, Mapping):
            found["*"] = value
    return found


def followed(part: Schema, schema: Schema) -> Schema:
    """Return a part of a schema with what it refers to; of a section that may be null the section."""
    reference = part.get("$ref") or part.get("then", {}).get("$ref")
    if reference is None:
        return part
    definition = schema["$defs"][reference.removeprefix("#/$defs/")]
    return {**followed(definition, schema), **{key: value for key, value in part.items() if key != "$ref"}}


def in_words(part: Schema) -> str:
    """Say what a value may be."""
    if "anyOf" in part:
        return ", or ".join(in_words(one) for one in part["anyOf"])
    if "enum" in part or "const" in part:
        return "one of " + ", ".join(map(str, part["enum"])) if "enum" in part else str(part["const"])
    kind = part.get("type")
    if kind in ("integer", "number"):
        return f"a {'whole ' * (kind == 'integer')}number{_range_in_words(part)}"
    if kind == "array":
        return f"a list, each {in_words(part['items'])}" if part.get("items") else "a list"
    words = {"boolean": "true or false", "string": "text", "null": "null", "object": "a mapping", None: "anything"}
    return words["object" if "$ref" in part else kind]


def _range_in_words(part: Schema) -> str:
    low = [f" from {part['minimum']:g}"] if "minimum" in part else []
    low += [f" above {part['exclusiveMinimum']:g}"] if "exclusiveMinimum" in part else []
    high = [f" to {part['maximum']:g}"] if part.get("maximum", 2**53) < 2**53 else []
    high += [f" below {part['exclusiveMaximum']:g}"] if part.get("exclusiveMaximum", 2**53) < 2**53 else []
    return "".join(low) + (", and" if low and high and "exclusiveMaximum" in part else "") + "".join(high)


def _show_interface(catalog: Catalog[Any]) -> None:
    heading(f"{catalog.interface}, an interface for plugins")
    _show_text(inspect.cleandoc(catalog.base.__doc__ or ""))
    console.print(f"\nkinds: {', '.join(sorted(catalog.plugins)) or 'none'}")
    console.print(f"a plugin implements: {', '.join(sorted(catalog.base.__abstractmethods__))}")
    console.print(f"where: {_place_of(catalog.base)}\n")


def _show_plugin(plugin: Plugin[Any], catalog: Catalog[Any], field: str, schema: Schema) -> None:
    """Print what a plugin does, its settings, and an entry for the experiment file with all of them."""
    properties = schema["$defs"][definition_name(catalog, plugin.kind)]["properties"]
    heading(f"{plugin.interface} {plugin.kind}, of {plugin.package} {plugin.version}")
    module = inspect.getmodule(plugin.config)
    for described in (module, plugin.config):
        if described is not None and (text := summary_of(described)):
            _show_text(text)
    _show_settings({name: one for name, one in properties.items() if name != "kind"}, schema)
    entry = {name: one["default"] for name, one in properties.items() if "default" in one}
    console.print(f"\nexample: {field}: {write_inline(entry)}")
    console.print(f"where: {_place_of(plugin.config)}\n")


def _show_setting(path: str, setting: Schema, schema: Schema) -> None:
    """Print what a setting means and may be; of a section the settings in it, of a plugin's entry the kinds."""
    heading(path)
    _show_text(setting.get("description", ""))
    inside = members(setting, schema)
    if "allOf" in setting:
        kind = inside["kind"]
        console.print(f"kind: {in_words(kind)}{_default_in_words(kind)}; topwork explain KIND tells its settings\n")
        return
    if inside.keys() == {"*"} and (named := members(inside["*"], schema)):
        named_by = "path of a setting" if path == "study.search" else "name of your own"
        console.print(f"for each, by a {named_by}:")
        inside = named
    if inside.keys() - {"*"}:
        _show_settings(inside, schema)
        return
    if "$ref" in setting.get("items", {}):
        setting = {**setting, "items": followed(setting["items"], schema)}
    console.print(f"it is {in_words(setting)}{_default_in_words(setting)}")
    value = setting.get("default")
    example = "VALUE" if value is None else write_inline(value)
    console.print(f"\nexample: --set {path}={example}\n")


def _show_settings(settings: Mapping[str, Schema], schema: Schema) -> None:
    if not settings:
        console.print("it has no settings")
        return
    shown = table("setting", "default", "may be", "meaning")
    for name, one in settings.items():
        part = followed(one, schema)
        default = write_inline(one["default"]) if "default" in one and "properties" not in part else ""
        may_be = "a section" if "properties" in part or "allOf" in part else in_words(part)
        shown.add_row(name, default, may_be, _plain(one.get("description", part.get("description", ""))))
    console.print(shown)


def _place_of(described: type) -> str:
    return f"{inspect.getsourcefile(described)}:{inspect.getsourcelines(described)[1]}"


def _show_text(text: str) -> None:
    if text:
        console.print(_plain(text))


def _plain(docstring: str) -> str:
    """Leave out the marks of code."""
    return docstring.replace("``", "")


def _default_in_words(setting: Schema) -> str:
    return f"; {write_inline(setting['default'])} where it is not given" if "default" in setting else ""
