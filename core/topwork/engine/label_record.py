"""Label spaces as JSON: with a model, so that it decodes without the data, and with the outputs of a run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels

_SPACES: Mapping[str, type[LabelSpace]] = {
    "classes": Classes,
    "label set": LabelSet,
    "numbers": Numbers,
    "distribution": Distribution,
    "word labels": WordLabels,
}
_KINDS = {space: kind for kind, space in _SPACES.items()}


class LabelRecord(BaseModel):
    """What a label space is, with the attributes that its kind has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: Literal["classes", "label set", "numbers", "distribution", "word labels"]
    names: tuple[str, ...]
    ordered: bool = False
    counts: tuple[Annotated[int, Field(ge=0)], ...] = ()
    mean: tuple[FiniteFloat, ...] = ()
    scale: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> "LabelRecord":
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError("there must be names, each once")
        lengths = {len(self.mean), len(self.scale)} if self.kind == "numbers" else {len(self.counts) or len(self.names)}
        if lengths != {len(self.names)}:
            raise ValueError(f"there are {len(self.names)} names, but other numbers of counts, means or scales")
        return self

    def restore(self) -> LabelSpace:
        """Return the label space."""
        space = _SPACES[self.kind]
        return space(**{name: value for name, value in self if name in space.__dataclass_fields__})


def record_of(space: LabelSpace) -> dict[str, Any]:
    """Return a label space as JSON values, which ``LabelRecord`` reads."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(space).items()}
    return {"kind": _KINDS[type(space)], **values}
