"""The schema of a source: where rows come from, and how they are divided."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from topwork.experiment.encoding import find_codec
from topwork.experiment.section import Section
from topwork.interfaces.plugin import Count

Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

#: Where final metrics are measured: on the first of these that has rows.
EVALUATED: tuple[SplitName, ...] = ("test", "validation", "train")
FILE_FIELDS = ("path", *SPLITS)


class Split(Section):
    """How the rows of one file are divided; the rest trains.

    Attributes:
        validation: fraction of the rows for choosing epochs and settings.
        test: fraction of the rows for the final figures.
        method: ``in_order`` takes train, validation and test rows in file order; ``random`` shuffles them
            first; ``stratified`` also keeps the proportions of the values of column ``by``.
        by: the column for ``stratified``.
        seed: of the shuffle.
    """

    validation: Fraction = 0.0
    test: Fraction = 0.2
    method: Literal["in_order", "random", "stratified"] = "in_order"
    by: str | None = None
    seed: int = Field(default=0, strict=True, ge=0)

    @property
    def without_test(self) -> "Split":
        """This split for rows that have a test file of their own."""
        return self.model_copy(update={"test": 0.0})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must leave rows to train on, but is {self.validation + self.test:g}")
        if (self.method == "stratified") != (self.by is not None):
            raise ValueError("`by: COLUMN` goes together with `method: stratified`")
        return self


class HubDataset(Section):
    """A data set of the Hugging Face Hub, and which of its splits are used as which.

    Attributes:
        name: owner and name, such as ``stanfordnlp/imdb``.
        config: one of its configurations, where there are several.
        revision: a commit, branch or tag; without it the newest, which may be another tomorrow.
        all: the split with all rows, which ``split`` of the source divides.
        train, validation, test: the splits to use as these instead.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")
    config: str | None = None
    revision: str | None = None
    all: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        one_each = [name for name in SPLITS if getattr(self, name)]
        if self.all and one_each:
            raise ValueError(f"give either all or a split for each, not all and {', '.join(one_each)}")
        if not self.all and not self.train:
            raise ValueError("give all, or train and, where there are such splits, validation and test")
        return self

    @property
    def splits(self) -> dict[SplitName | Literal["all"], str]:
        """The names of its splits by what they are used as."""
        if self.all:
            return {"all": self.all}
        return {name: split for name in SPLITS if (split := getattr(self, name))}


#: Among the names of columns: any number of fields that have none.
REST = "..."


class Source(Section):
    """Rows from files. Give ``path`` and a split, or one file for each split.

    Attributes:
        path: a file with all rows, or a pattern such as ``part-*.csv`` for the names of several. Relative paths start
            at the experiment file's folder, those given with ``--set`` at the working directory.
        train, validation, test: one file for each split instead.
        hub: a data set of the Hugging Face Hub instead.
        pattern: a regular expression with named groups that reads each line of a file of any suffix;
            without it the suffix decides: .csv, .tsv, .jsonl, .parquet, .conllu, .conll, each also with .gz, .zst or
            .xz behind it.
        columns: the names of the columns of a .csv or .tsv file whose first line does not name them, or of a .conll
            file. A last name ``...`` stands for further fields that some rows have.
        text: the column with the text, or the two columns of a pair, which the encoder reads as one sequence, or apart
            where a head says so.
        words: instead of ``text``, the column with a text that is divided into words: a list, or a text that is divided
            at blanks.
        encoding: of text files.
        limit: read at most this many rows of each file.
        on_faulty_rows: what to do about rows without a text or label, with too few fields, and so on: ``error`` names
            them and ends; ``skip`` leaves them out, counts and lists them.
        split: how the rows of ``path`` are divided; beside ``train``, which of its rows are held out to validate on.
    """

    path: Path | None = None
    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    hub: HubDataset | None = None
    pattern: str | None = None
    columns: tuple[str, ...] | None = None
    text: str | tuple[str, str] = "text"
    words: str | None = Field(default=None, min_length=1)
    encoding: str = "utf-8"
    limit: Count | None = None
    on_faulty_rows: Literal["error", "skip"] = "error"
    split: Split | None = None

    @field_validator(*FILE_FIELDS)
    @classmethod
    def _from_here(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        """Make a path that a script gives absolute; those of a file are read from its folder, in a context."""
        return path if path is None or info.context is not None else path.expanduser().absolute()

    @field_validator("columns")
    @classmethod
    def _names_each_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and (not all(columns) or len(set(columns)) < len(columns) or REST in columns[:-1]):
            raise ValueError(f"give each column a name of its own; {REST} may be the last")
        return columns

    @field_validator("text")
    @classmethod
    def _has_two_columns(cls, text: str | tuple[str, str]) -> str | tuple[str, str]:
        if isinstance(text, tuple) and text[0] == text[1]:
            raise ValueError("a pair needs two columns")
        return text

    @field_validator("encoding")
    @classmethod
    def _is_of_texts(cls, encoding: str) -> str:
        find_codec(encoding)
        return encoding

    @model_validator(mode="after")
    def _fits(self) -> Self:
        one_each = [name for name in SPLITS if getattr(self, name)]
        if self.hub and (self.path or one_each or self.pattern or self.columns):
            raise ValueError("give either hub or files; what is in the Hub has columns with names")
        if self.path and one_each:
            raise ValueError(f"give either path or one file for each split, not path and {', '.join(one_each)}")
        if not self.path and not self.train and not self.hub:
            raise ValueError("give path, or train and, where there are such rows, validation and test")
        if self.columns and self.pattern:
            raise ValueError("a pattern names its columns itself; leave out columns")
        if self.words is not None and self.text != "text":
            raise ValueError("give either text or words; heads that read texts whole read words as one text")
        if self.split and (one_each or (self.hub and not self.hub.all)):
            self._check_held_out(self.split)
        return self

    def _check_held_out(self, split: Split) -> None:
        """Check a split that holds out validation rows of the file ``train``.

        Raises:
            ValueError: it does something else.
        """
        if self.validation or (self.hub and self.hub.validation):
            raise ValueError("give either a validation file or split.validation, which takes rows of train")
        if "test" in split.model_fields_set and split.test:
            raise ValueError("beside a file train, split takes validation rows alone; leave out split.test")
        if not split.validation:
            raise ValueError(
                "beside a file train, split takes validation rows from it: set split.validation, or leave out split"
            )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the text or of its words, or the two of a pair."""
        if self.words is not None:
            return (self.words,)
        return (self.text,) if isinstance(self.text, str) else self.text

    def files(self) -> dict[SplitName | Literal["all"], Path]:
        """The files by split, or what stands for them in the Hub; ``all`` for the one that ``split`` divides."""
        if self.hub:
            return {name: Path(f"hub:{self.hub.name}/{split}.parquet") for name, split in self.hub.splits.items()}
        if self.path:
            return {"all": self.path}
        return {name: path for name in SPLITS if (path := getattr(self, name))}
