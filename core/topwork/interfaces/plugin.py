"""The base of every plugin's settings."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """The settings of one plugin, which are also its entry in an experiment file.

    A subclass names itself with ``kind: Literal["my_kind"] = "my_kind"`` and declares its settings as
    further fields, each with a type and a default; unknown keys in a file are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Any, because a type checker refuses to narrow `str` to the Literal of a subclass.
    kind: Any
