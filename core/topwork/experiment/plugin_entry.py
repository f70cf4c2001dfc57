"""Plugins as they stand in an experiment: by ``kind``, or by the path of a file that registers them."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationInfo

from topwork.errors import quote
from topwork.interfaces.plugin import PluginConfig
from topwork.plugin_file import PluginFile
from topwork.registry import Registry, check_settings, discover

#: Which catalog of the registry answers for which plugin field.
CATALOGS = {
    "backbone": "backbones",
    "pooling": "poolings",
    "head": "heads",
    "freeze": "freeze_strategies",
    "optimizer": "optimizer_groupings",
    "sampling": "samplers",
    "weighting": "loss_weightings",
}

#: The plugin of each field that an experiment does not name.
DEFAULT_KINDS = {
    "backbone": "distilbert",
    "pooling": "cls",
    "head": "classification",
    "freeze": "all_except",
    "optimizer": "heads_and_backbone",
    "sampling": "proportional",
    "weighting": "fixed",
}


def find_plugin(raw: object, info: ValidationInfo) -> object:
    """Validate a plugin's entry with the config class that its ``kind`` names; a config object stands for itself."""
    if isinstance(raw, PluginConfig):
        check_settings(raw)
        return raw
    registry = info.context.get("registry") if info.context else discover()
    if not isinstance(registry, Registry):
        raise ValueError("in a context there must be a registry: context={'registry': topwork.discover()}")
    assert info.field_name is not None
    return registry.catalogs()[CATALOGS[info.field_name]].parse(raw, problems=[])


def find_plugin_file(raw: object, info: ValidationInfo) -> PluginFile:
    """Return the file that was read for an entry of ``plugins``."""
    if isinstance(raw, PluginFile):
        return raw
    registry = info.context.get("registry") if info.context else None
    known = {file.sha256: file for file in registry.files} if isinstance(registry, Registry) else {}
    if not isinstance(raw, Mapping) or raw.get("sha256") not in known:
        raise ValueError(f"a plugin file is named by its path, such as my_head.py, got {quote(raw)}")
    return known[raw["sha256"]].model_copy(update={"path": Path(raw.get("path", ""))})


def with_default_kinds(raw: object, *names: str) -> object:
    """Add the default plugins that a mapping leaves out, or of which it gives settings but no kind."""
    if not isinstance(raw, Mapping):
        return raw
    given = {name: raw.get(name, {}) for name in names}
    completed = {
        name: {"kind": DEFAULT_KINDS[name], **entry} for name, entry in given.items() if isinstance(entry, dict)
    }
    return {**raw, **completed}
