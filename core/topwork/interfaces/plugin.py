"""The base of every plugin's settings."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: A whole number from 1; `true` and "2" are refused.
Count = Annotated[int, Field(strict=True, ge=1)]

#: A finite number from 0, such as a learning rate.
Rate = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class PluginConfig(BaseModel):
    """The settings of one plugin, which are also its entry in an experiment file.

    A subclass names itself with ``kind: Literal["my_kind"] = "my_kind"`` and declares its settings as
    further fields, each with a type and a default; unknown keys in a file are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Any, because a type checker refuses to narrow `str` to the Literal of a subclass.
    kind: Any

    @model_validator(mode="after")
    def _name_itself(self) -> "PluginConfig":
        self.__pydantic_fields_set__.add("kind")  # what is written without defaults must still say what it is
        return self
