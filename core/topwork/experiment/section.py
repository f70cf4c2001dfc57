"""The base of an experiment's sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of an experiment: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
