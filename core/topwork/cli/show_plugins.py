"""``topwork plugins``."""

from topwork.cli.format import Format
from topwork.cli.output import write_rows
from topwork.cli.tables import console, table
from topwork.errors import PluginError
from topwork.interfaces.plugin import PluginConfig
from topwork.registry import discover


def show_plugins(format: Format) -> None:
    """List interface, kind, package, version and settings with defaults.

    Raises:
        PluginError: a plugin is broken, or two packages offer the same; the others are listed all the same.
    """
    registry = discover()
    rows = [
        {name: getattr(plugin, name) for name in ("interface", "kind", "package", "version")}
        | {"settings": ", ".join(_settings(plugin.config))}
        for plugin in registry.plugins()
    ]
    if format is Format.TABLE:
        shown = table("interface", "kind", "package", "version", "settings")
        for row in rows:
            shown.add_row(*row.values())
        console.print(shown)
    else:
        write_rows(rows, format)
    if registry.problems:
        raise PluginError("\n".join(registry.problems))


def _settings(config: type[PluginConfig]) -> list[str]:
    """The settings of a plugin, with their defaults where they have some."""
    return [
        name if field.is_required() else f"{name}={_plain(field.get_default(call_default_factory=True))}"
        for name, field in config.model_fields.items()
        if name != "kind"
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
