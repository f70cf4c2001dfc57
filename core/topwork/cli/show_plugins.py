"""``topwork plugins``."""

from topwork.cli.tables import console, table
from topwork.errors import PluginError
from topwork.registry import discover


def show_plugins() -> None:
    """List interface, kind, package, version and settings with defaults.

    Raises:
        PluginError: a plugin is broken, or two packages offer the same; the others are listed all the same.
    """
    registry = discover()
    shown = table("interface", "kind", "package", "version", "settings")
    for plugin in registry.plugins():
        fields = {name: field for name, field in plugin.config.model_fields.items() if name != "kind"}
        settings = [
            name if field.is_required() else f"{name}={_plain(field.get_default(call_default_factory=True))}"
            for name, field in fields.items()
        ]
        shown.add_row(plugin.interface, plugin.kind, plugin.package, plugin.version, ", ".join(settings))
    console.print(shown)
    if registry.problems:
        raise PluginError("\n".join(registry.problems))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
