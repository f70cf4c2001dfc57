"""The JSON schema of an experiment file, with every plugin that is there, for editors that complete and check."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import DictSchema, ModelSchema

from topwork.experiment.docstrings import attributes_of, summary_of
from topwork.experiment.plugin_entry import CATALOGS, DEFAULT_KINDS
from topwork.experiment.schema import Experiment
from topwork.registry import Catalog, Registry

#: How an entry of ``plugins`` may be written.
_PLUGIN_FILE = {
    "description": "a Python file that registers plugins, from the experiment file's folder",
    "anyOf": [
        {"type": "string", "pattern": r"\.py$"},
        {
            "type": "object",
            "properties": {"path": {"type": "string"}, "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ],
}


def experiment_schema(registry: Registry) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of an experiment file.

    What one setting demands of another is not in it; ``topwork plan`` checks that.
    """
    schema = _schema_of(Experiment)
    definitions = schema.pop("$defs")
    definitions["PluginFile"] = _PLUGIN_FILE
    catalogs = registry.catalogs()
    for field, of_field in CATALOGS.items():
        catalog = catalogs[of_field]
        definitions[catalog.base.__name__] = _any_plugin(catalog, DEFAULT_KINDS[field])
        for kind, plugin in catalog.plugins.items():
            name = definition_name(catalog, kind)
            of_plugin = _schema_of(plugin.config, prefix=f"{name}.")
            definitions |= of_plugin.pop("$defs", {})
            definitions[name] = of_plugin
    for section in (schema, definitions["Task"]):
        section["required"] = [name for name in section["required"] if name not in CATALOGS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def definition_name(catalog: Catalog[Any], kind: str) -> str:
    """Return what the settings of a plugin are called among the definitions of the schema."""
    return f"{catalog.base.__name__}.{kind}"


def _any_plugin(catalog: Catalog[Any], default: str) -> dict[str, Any]:
    """The schema of an entry whose ``kind`` decides which further settings there are."""

    def when(condition: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"if": condition, "then": {"$ref": f"#/$defs/{definition_name(catalog, kind)}"}}

    kinds = sorted(catalog.plugins)
    named = {kind: {"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in kinds}
    by_kind = [when({"type": "object", **named[kind]}, kind) for kind in kinds]
    if default in kinds:
        by_kind.append(when({"type": "object", "not": {"required": ["kind"]}}, default))
    kind = {"enum": kinds, "default": default, "description": f"which {catalog.interface}"}
    required = {} if default in kinds else {"required": ["kind"]}
    return {
        "description": summary_of(catalog.base),
        "type": "object",
        "properties": {"kind": kind},
        "allOf": by_kind,
        **required,
    }


def _schema_of(model: Any, prefix: str = "") -> dict[str, Any]:
    template = f"#/$defs/{prefix}{{model}}"
    schema: dict[str, Any] = model.model_json_schema(ref_template=template, schema_generator=_WithDescriptions)
    if "$defs" in schema:
        schema["$defs"] = {f"{prefix}{name}": one for name, one in schema["$defs"].items()}
    return schema


def _or_null(alternatives: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return alternatives so that what is wrong in a section that may be null is found inside it."""
    if not alternatives:
        return {}
    section, *others = alternatives
    if "$ref" in section and others == [{"type": "null"}]:
        return {"if": {"not": {"type": "null"}}, "then": section}
    return {"anyOf": alternatives}


class _WithDescriptions(GenerateJsonSchema):
    """Says of each setting what the docstring of its class says."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        described = attributes_of(schema["cls"])
        made.pop("title", None)
        made["description"] = summary_of(schema["cls"])
        for name, setting in made.get("properties", {}).items():
            setting.pop("title", None)
            setting |= _or_null(setting.pop("anyOf", None))
            if name in described:
                setting["description"] = described[name]
        return made

    def dict_schema(self, schema: DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if "patternProperties" in made:
            made["additionalProperties"] = False
        return made
