"""How the labels of a task are written in the data, and where they stand."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from topwork.experiment.section import Section
from topwork.interfaces.labels import Classes, LabelSpace


class LabelFormat(Section):
    """How labels are written, and which spellings of a label are one label.

    Attributes:
        separator: what stands between the labels of a cell that has several; lists of JSON and Parquet need none.
        rename: other names for labels, by the spelling that they have after the rules below.
        order: the names of all classes, in their order. It means something to heads for ordered classes, and is the
            order of columns, figures and tables.
        strip: leave out the blanks around a label.
        casefold: make no difference between upper and lower case; classes are named in lower case then.
        normalize: a Unicode normalization form. ``NFC`` makes characters equal that are composed in different ways,
            ``NFKC`` also full-width and other variants of one character; null leaves labels as they are.
    """

    separator: str | None = Field(default=None, min_length=1)
    rename: dict[str, str] = Field(default_factory=dict)
    order: tuple[str, ...] | None = None
    strip: bool = Field(default=True, strict=True)
    casefold: bool = Field(default=False, strict=True)
    normalize: Literal["NFC", "NFKC"] | None = "NFC"

    @property
    def changed(self) -> list[str]:
        """The names of the settings that are not the defaults."""
        return [
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.get_default(call_default_factory=True)
        ]

    @field_validator("order")
    @classmethod
    def _names_each_once(cls, order: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if order is not None and (len(order) < 2 or len(set(order)) < len(order)):
            raise ValueError("give the names of two or more classes, each once")
        return order


#: Every spelling is a label of its own, as it was for models of version 0.1, and is for the strata of a split.
AS_WRITTEN = LabelFormat(strip=False, normalize=None)


#: What is to be done about a row without a label of a task.
OnMissing = Literal["error", "skip"]


@dataclass(frozen=True)
class LabelColumns:
    """Where the labels of a task stand and how they are read.

    Attributes:
        names: of the columns, one or several.
        format: how labels are written.
        missing: what to do about rows without one.
        spaces: the label spaces that the head takes, the one it prefers first.
        head: the head's kind.
    """

    names: tuple[str, ...]
    format: LabelFormat
    missing: OnMissing = "error"
    spaces: tuple[type[LabelSpace], ...] = (Classes,)
    head: str = ""
