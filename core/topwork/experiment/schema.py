"""The schema of an experiment. The defaults are the reference recipe's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from topwork.errors import enumerate_names
from topwork.experiment.encoding import find_codec
from topwork.experiment.label_format import LabelColumns, LabelFormat, OnMissing
from topwork.experiment.objective import parse_objective
from topwork.experiment.origin import Origin
from topwork.experiment.section import Section
from topwork.experiment.study import StudySettings
from topwork.interfaces.backbone import BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import HeadConfig, Reading
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import Count, PluginConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.registry import Registry, check_settings

# Task and source names become parts of metric names, parameter names and file names.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

#: Where final metrics are measured: on the first of these that has rows.
EVALUATED: tuple[SplitName, ...] = ("test", "validation", "train")
FILE_FIELDS = ("path", *SPLITS)

#: Which catalog of the registry answers for which plugin field.
CATALOGS = {
    "backbone": "backbones",
    "pooling": "poolings",
    "head": "heads",
    "freeze": "freeze_strategies",
    "optimizer": "optimizer_groupings",
}

_DEFAULT_KINDS = {
    "backbone": "distilbert",
    "pooling": "cls",
    "head": "classification",
    "freeze": "all_except",
    "optimizer": "heads_and_backbone",
}


def find_plugin(raw: object, info: ValidationInfo) -> object:
    """Validate a plugin's entry with the config class that its ``kind`` names; a config object stands for itself."""
    if isinstance(raw, PluginConfig):
        check_settings(raw)
        return raw
    registry = info.context.get("registry") if info.context else None
    if not isinstance(registry, Registry):
        raise ValueError("validate with context={'registry': discover()}, so that the installed plugins are known")
    assert info.field_name is not None
    return registry.catalogs()[CATALOGS[info.field_name]].parse(raw, problems=[])


def _with_default_kinds(raw: object, *names: str) -> object:
    """Add the default plugins that a mapping leaves out, or of which it gives settings but no kind."""
    if not isinstance(raw, Mapping):
        return raw
    given = {name: raw.get(name, {}) for name in names}
    completed = {
        name: {"kind": _DEFAULT_KINDS[name], **entry} for name, entry in given.items() if isinstance(entry, dict)
    }
    return {**raw, **completed}


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


#: Among the names of columns: any number of fields that have none.
REST = "..."


class Source(Section):
    """Rows from files. Give ``path`` and a split, or one file for each split.

    Attributes:
        path: a file with all rows, or a pattern such as ``part-*.csv`` for the names of several. Relative paths start
            at the experiment file's folder, those given with ``--set`` at the working directory.
        train, validation, test: one file for each split instead.
        pattern: a regular expression with named groups that reads each line of a file of any suffix;
            without it the suffix decides: .csv, .tsv, .jsonl, .parquet, each also with .gz, .zst or .xz behind it.
        columns: the names of the columns of a .csv or .tsv file whose first line does not name them. A last name
            ``...`` stands for further fields that some rows have.
        text: the column with the text, or the two columns of a pair, which the encoder reads as one sequence, or apart
            where a head says so.
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
    pattern: str | None = None
    columns: tuple[str, ...] | None = None
    text: str | tuple[str, str] = "text"
    encoding: str = "utf-8"
    limit: Count | None = None
    on_faulty_rows: Literal["error", "skip"] = "error"
    split: Split | None = None

    @field_validator("columns")
    @classmethod
    def _names_each_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and (not all(columns) or len(set(columns)) < len(columns) or REST in columns[:-1]):
            raise ValueError(f"give each column a name of its own; {REST} may be the last")
        return columns

    @field_validator("encoding")
    @classmethod
    def _is_of_texts(cls, encoding: str) -> str:
        find_codec(encoding)
        return encoding

    @model_validator(mode="after")
    def _fits(self) -> Self:
        one_each = [name for name in SPLITS if getattr(self, name)]
        if self.path and one_each:
            raise ValueError(f"give either path or one file for each split, not path and {', '.join(one_each)}")
        if not self.path and not self.train:
            raise ValueError("give path, or train and, where there are such rows, validation and test")
        if self.columns and self.pattern:
            raise ValueError("a pattern names its columns itself; leave out columns")
        if one_each and self.split:
            self._check_held_out(self.split)
        return self

    def _check_held_out(self, split: Split) -> None:
        """Check a split that holds out validation rows of the file ``train``.

        Raises:
            ValueError: it does something else.
        """
        if self.validation:
            raise ValueError("give either a validation file or split.validation, which takes rows of train")
        if "test" in split.model_fields_set and split.test:
            raise ValueError("beside a file train, split takes validation rows alone; leave out split.test")
        if not split.validation:
            raise ValueError(
                "beside a file train, split takes validation rows from it: set split.validation, or leave out split"
            )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the text, or the two of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text

    def files(self) -> dict[SplitName | Literal["all"], Path]:
        """The files by split; ``all`` for the one file that ``split`` divides."""
        if self.path:
            return {"all": self.path}
        return {name: path for name in SPLITS if (path := getattr(self, name))}


class Task(Section):
    """One label column of one source, learnt by one head.

    Attributes:
        label: the label column, or several: of numbers, one for each number; of shares, one for each class; of sets of
            labels, one for each label, with 0 or 1.
        labels: how labels are written, and which spellings of a label are one label.
        missing: what to do about rows without a label, which is an empty cell or a null: ``error`` names them and ends;
            ``skip`` leaves them to the other tasks. A row that no task has a label for is left out.
        source: a name under ``data``; may be left out where there is only one.
        head: the head's plugin.
        loss_weight: factor of this task's loss in the total.
    """

    label: str | Annotated[tuple[str, ...], Field(min_length=2)]
    labels: LabelFormat = LabelFormat()
    missing: OnMissing = "error"
    source: str | None = None
    head: SerializeAsAny[HeadConfig]
    loss_weight: float = Field(default=1.0, strict=True, gt=0, allow_inf_nan=False)

    _find_plugin = field_validator("head", mode="before")(find_plugin)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: object) -> object:
        return _with_default_kinds(raw, "head")


class Training(Section):
    """The training loop.

    Attributes:
        epochs: at most this many passes over the training rows.
        batch_size: rows per optimizer step.
        accumulation: compute each batch in this many pieces, to fit memory; the step stays the same.
        shuffle: a new seeded order each epoch; otherwise the order of the file.
        seed: of initial head weights, order and dropout.
        patience: stop after this many epochs in a row in which ``monitor`` did not improve, and return to
            the best epoch; null trains all epochs and keeps the last.
        monitor: the metric to watch: ``training/loss``, ``validation/loss``, ``validation/<task>/accuracy``, ...;
            or mean, min or max of some: ``mean(validation/a/accuracy, validation/b/accuracy)``.
        clip_norm: scale gradients down to this total norm.
        schedule: of all learning rates, by optimizer step: ``linear`` and ``cosine`` fall to 0.
        warmup: fraction of all steps in which the rates rise from 0.
        device: ``auto`` takes the best there is.
        precision: ``bfloat16`` trains and validates what is right of the cut in mixed precision; the final
            figures are in float32, as the saved model is.
        store: whether activations are kept on disk for other runs. ``auto`` does so where it pays and there is
            room, and otherwise says why not; ``require`` makes that an error; ``off`` neither reads nor writes.
        activation_dtype: how activations are kept, on disk and in memory alike. Two bytes a number are half the
            size, and round what training sees by up to one part in 2,000 (float16) or 250 (bfloat16).
    """

    epochs: Count = 20
    batch_size: Count = 20
    accumulation: Count = 1
    shuffle: bool = Field(default=False, strict=True)
    seed: int = Field(default=0, strict=True, ge=0, lt=2**63)
    patience: Count | None = 2
    monitor: str = "training/loss"
    clip_norm: float | None = Field(default=None, strict=True, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Fraction = 0.0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    store: Literal["auto", "off", "require"] = "auto"
    activation_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @field_validator("monitor")
    @classmethod
    def _is_an_objective(cls, text: str) -> str:
        parse_objective(text)
        return text

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation ({self.accumulation}) must not exceed batch_size ({self.batch_size})")
        return self


class Tracking(Section):
    """Where runs are logged.

    Attributes:
        enabled: false trains without MLflow.
        uri: an MLflow tracking URI; without it MLFLOW_TRACKING_URI, or else mlflow.db in the working directory.
        experiment: the MLflow experiment; without it the experiment's name.
        log_model: also store the trained model with the run.
    """

    enabled: bool = Field(default=True, strict=True)
    uri: str | None = None
    experiment: str | None = None
    log_model: bool = Field(default=True, strict=True)


class Experiment(Section):
    """A whole experiment. In Python, validate with ``context={"registry": discover()}`` or pass plugin configs."""

    name: Name
    data: dict[Name, Source] = Field(min_length=1)
    backbone: SerializeAsAny[BackboneConfig]
    pooling: SerializeAsAny[PoolingConfig]
    tasks: dict[Name, Task] = Field(min_length=1)
    freeze: SerializeAsAny[FreezeStrategyConfig]
    optimizer: SerializeAsAny[OptimizerGroupingConfig]
    training: Training = Training()
    tracking: Tracking = Tracking()
    study: StudySettings | None = None

    _origin: Origin = PrivateAttr(default_factory=Origin)
    _find_plugin = field_validator("backbone", "pooling", "freeze", "optimizer", mode="before")(find_plugin)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: object) -> object:
        return _with_default_kinds(raw, "backbone", "pooling", "freeze", "optimizer")

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        for name, task in self.tasks.items():
            source = self._source_of(name)
            if task.head.reads == "two pooled" and source in self.data and len(self.data[source].text_columns) < 2:
                raise ValueError(
                    f"head {task.head.kind} of task {name} reads two texts, but source {source} has one; "
                    f"name two columns: data.{source}.text: [first, second]"
                )
        return self

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        read = {self._source_of(name) for name in self.tasks}
        unknown, unread = sorted(read - self.data.keys()), sorted(self.data.keys() - read)
        if unknown:
            raise ValueError(
                f"tasks read unknown source {enumerate_names(unknown)}; data has {enumerate_names(self.data)}"
            )
        if unread:
            raise ValueError(
                f"no task reads source {enumerate_names(unread)}; remove it, or name it as a task's source"
            )
        return self

    def _source_of(self, task: str) -> str:
        named = self.tasks[task].source
        if named is None and len(self.data) > 1:
            raise ValueError(f"task {task} must name its source, one of {enumerate_names(self.data)}")
        return named or next(iter(self.data))

    @property
    def label_columns(self) -> dict[str, dict[str, LabelColumns]]:
        """For each source, the label columns of each task that reads it."""
        columns: dict[str, dict[str, LabelColumns]] = {source: {} for source in self.data}
        for name, task in self.tasks.items():
            names = (task.label,) if isinstance(task.label, str) else task.label
            spaces, head = task.head.label_spaces, task.head.kind
            columns[self._source_of(name)][name] = LabelColumns(names, task.labels, task.missing, spaces, head)
        return columns

    @property
    def reads(self) -> dict[str, Reading]:
        """What the head of each task reads of a row."""
        return {name: task.head.reads for name, task in self.tasks.items()}

    @property
    def loss_weights(self) -> dict[str, float]:
        """The factor of each task's loss in the total."""
        return {name: task.loss_weight for name, task in self.tasks.items()}

    @property
    def origin(self) -> Origin:
        """Where the experiment was written."""
        return self._origin

    def dump(self) -> dict[str, Any]:
        """Return what decides a training, with every default, as JSON values; ``Experiment`` reads it back.

        The study section, which varies the experiment, is not part of it.
        """
        return self.model_dump(mode="json", exclude={"study"})

    def written(self) -> dict[str, Any]:
        """Return what was set, without defaults and without the study section; ``Experiment`` reads it back."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"study"})
