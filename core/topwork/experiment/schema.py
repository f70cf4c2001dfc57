"""The schema of an experiment. The defaults are the reference recipe's."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    StringConstraints,
    field_serializer,
    field_validator,
    model_validator,
)

from topwork.errors import did_you_mean, enumerate_names, quote
from topwork.experiment.label_format import LabelColumns, LabelFormat, OnMissing
from topwork.experiment.objective import parse_objective
from topwork.experiment.optimizer_option import OptimizerOption
from topwork.experiment.origin import Origin
from topwork.experiment.plugin_entry import find_plugin, find_plugin_file, with_default_kinds
from topwork.experiment.section import Section
from topwork.experiment.source import Fraction, Source
from topwork.experiment.study import StudySettings
from topwork.interfaces.backbone import BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import HeadConfig, Reading
from topwork.interfaces.labels import LabelSet, Numbers, WordLabels
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import Count
from topwork.interfaces.pooling import PoolingConfig
from topwork.interfaces.sampler import SamplerConfig
from topwork.plugin_file import PluginFile

# Task and source names become parts of metric names, parameter names and file names.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class Task(Section):
    """One label column of one source, learnt by one head.

    Attributes:
        label: the label column, or several: of numbers, one for each number; of shares, one for each class; of sets of
            labels, one for each label, with 0 or 1. Of words it has a label for each: a list, or a text that is divided
            at blanks, or where ``labels.separator`` says.
        labels: how labels are written, and which spellings of a label are one label.
        missing: what to do about rows without a label, which is an empty cell or a null: ``error`` names them and ends;
            ``skip`` leaves them to the other tasks. A row that no task has a label for is left out.
        source: a name under ``data``; may be left out where there is only one.
        head: the head's plugin.
        loss_weight: factor of this task's loss before the weighting.
        monitor: with ``training.stop: per_task``, the metric to watch on the validation rows, such as ``macro_f1`` or
            ``loss``; without it the head's first, or, where no validation row has a label, the training loss.
        patience: with ``training.stop: per_task``, in place of ``training.patience``.
    """

    label: str | Annotated[tuple[str, ...], Field(min_length=2)]
    labels: LabelFormat = LabelFormat()
    missing: OnMissing = "error"
    source: str | None = None
    head: SerializeAsAny[HeadConfig]
    loss_weight: float = Field(default=1.0, strict=True, gt=0, allow_inf_nan=False)
    monitor: Annotated[str, StringConstraints(pattern=r"^[^/(),]+$", max_length=200)] | None = None
    patience: Count | None = None

    _find_plugin = field_validator("head", mode="before")(find_plugin)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: object) -> object:
        return with_default_kinds(raw, "head")

    @field_validator("label")
    @classmethod
    def _names_each_once(cls, label: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(label, tuple) and len(set(label)) < len(label):
            raise ValueError("name each column once")
        return label

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        spaces, head = set(self.head.label_spaces), self.head.kind
        if spaces == {Numbers} and (given := self.labels.changed):
            raise ValueError(f"head {head} takes numbers, which are read as they are; leave out labels.{given[0]}")
        if self.labels.separator and isinstance(self.label, tuple):
            raise ValueError("several label columns have one label each; leave out labels.separator")
        if self.labels.separator and not spaces & {LabelSet, WordLabels}:
            raise ValueError(f"head {head} takes one label of a cell, which is not divided; leave out labels.separator")
        return self


class Training(Section):
    """The training loop.

    Attributes:
        epochs: at most this many passes over the training rows.
        batch_size: rows per optimizer step.
        accumulation: compute each batch in this many pieces, to fit memory; the step stays the same.
        shuffle: a new seeded order each epoch; otherwise the order of the file.
        seed: of initial head weights, order and dropout.
        seeds: train once with each, and give means over them; instead of ``seed``.
        tasks: train these only, on the rows that have labels of theirs, as often as when all are trained.
        stop: ``together`` stops all tasks at once, by ``monitor``; ``per_task`` stops each by its own, and keeps its
            head from its own best epoch.
        patience: stop after this many epochs in a row in which ``monitor`` did not improve, and return to
            the best epoch; null trains all epochs and keeps the last.
        monitor: the metric to watch: ``training/loss``, ``validation/loss``, ``validation/<task>/accuracy``, ...;
            or mean, min or max of some: ``mean(validation/a/accuracy, validation/b/accuracy)``.
        gradient_batches: on so many batches of each epoch, drawn by lot, compare the tasks' gradients by what they
            share, at a pass backward for each task.
        clip_norm: scale gradients down to this total norm.
        optimizer: which of torch's optimizers steps the groups of ``optimizer``. Their weight decay is decoupled for
            AdamW and Adafactor; the others add it to the gradient.
        optimizer_options: its further settings, as torch names them, such as ``momentum``.
        schedule: of all learning rates, by optimizer step: ``linear``, ``polynomial`` and ``cosine`` fall to 0,
            ``cosine_restarts`` does so several times, and ``inverse_sqrt`` falls as 1 over the square root of the step.
        cycles: how many times ``cosine_restarts`` falls.
        power: of ``polynomial``.
        warmup: fraction of all steps in which the rates rise from 0.
        device: ``auto`` takes the best there is.
        precision: ``bfloat16`` trains and validates what is right of the cut in mixed precision; the final
            figures are in float32, as the saved model is.
        store: whether activations are kept on disk for other runs. ``auto`` does so where it pays and there is
            room, and otherwise says why not; ``require`` makes that an error; ``off`` neither reads nor writes.
        activation_dtype: how activations are kept, on disk and in memory alike. Two bytes a number are half the
            size, and round what training sees by up to one part in 2,000 (float16) or 250 (bfloat16).
        checkpoint_minutes: a run that is killed goes on from its last checkpoint: there is one at least every so many
            minutes, at the ends of epochs that are worth one, and when the run is asked to stop; null for none.
    """

    epochs: Count = 20
    batch_size: Count = 20
    accumulation: Count = 1
    shuffle: bool = Field(default=False, strict=True)
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    stop: Literal["together", "per_task"] = "together"
    patience: Count | None = 2
    monitor: str = "training/loss"
    gradient_batches: Annotated[int, Field(strict=True, ge=0)] = 0
    clip_norm: float | None = Field(default=None, strict=True, gt=0, allow_inf_nan=False)
    optimizer: Literal["Adafactor", "Adam", "AdamW", "RMSprop", "SGD"] = "AdamW"
    optimizer_options: dict[str, OptimizerOption] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine", "cosine_restarts", "polynomial", "inverse_sqrt"] = "constant"
    cycles: Count = 2
    power: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 2.0
    warmup: Fraction = 0.0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    store: Literal["auto", "off", "require"] = "auto"
    activation_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    checkpoint_minutes: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = 5.0

    @field_validator("monitor")
    @classmethod
    def _is_an_objective(cls, text: str) -> str:
        parse_objective(text)
        return text

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation ({self.accumulation}) must not exceed batch_size ({self.batch_size})")
        for name, schedule in (("cycles", "cosine_restarts"), ("power", "polynomial")):
            if getattr(self, name) != type(self).model_fields[name].default and self.schedule != schedule:
                raise ValueError(f"{name} is a setting of schedule: {schedule}, but schedule is {self.schedule}")
        if self.schedule == "inverse_sqrt" and self.warmup == 0:
            raise ValueError("schedule: inverse_sqrt falls from the end of the warm-up on; give warmup above 0")
        if self.seeds is not None and self.seed:
            raise ValueError("give either seed or seeds")
        for name, given in (("seeds", self.seeds), ("tasks", self.tasks)):
            if given and len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, got {enumerate_names(list(map(str, given)))}")
        if self.stop == "per_task" and self.monitor != type(self).model_fields["monitor"].default:
            raise ValueError("monitor watches all tasks together; with stop: per_task set tasks.TASK.monitor instead")
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


class Window(Section):
    """How texts are divided that are longer than the backbone reads; without it they are truncated.

    Attributes:
        stride: how many tokens of a window are in the next one too. The vectors of a text's windows are averaged.
    """

    stride: Annotated[int, Field(strict=True, ge=0)]


class Experiment(Section):
    """A whole experiment. In Python plugins are given as configs, or as mappings with a ``kind`` that is installed.

    Attributes:
        name: of the experiment, in MLflow and in file names.
        plugins: Python files beside the experiment that register plugins which are not installed as packages.
        data: sources of rows, by names of your own.
        backbone: the pretrained encoder.
        pooling: how the hidden states of a text become one vector.
        window: divides texts that are longer than the backbone reads; null truncates them.
        tasks: label columns, each learnt by one head, by names of your own.
        freeze: what of the backbone trains.
        optimizer: which learning rate each parameter that trains has.
        sampling: which rows of which source come in which order.
        weighting: how the losses of several tasks become one step.
        training: the loop.
        tracking: where runs are logged.
        study: what ``topwork study`` searches.
    """

    name: Name
    plugins: tuple[Annotated[PluginFile, BeforeValidator(find_plugin_file)], ...] = ()
    data: dict[Name, Source] = Field(min_length=1)
    backbone: SerializeAsAny[BackboneConfig]
    pooling: SerializeAsAny[PoolingConfig]
    window: Window | None = None
    tasks: dict[Name, Task] = Field(min_length=1)
    freeze: SerializeAsAny[FreezeStrategyConfig]
    optimizer: SerializeAsAny[OptimizerGroupingConfig]
    sampling: SerializeAsAny[SamplerConfig]
    weighting: SerializeAsAny[LossWeightingConfig]
    training: Training = Training()
    tracking: Tracking = Tracking()
    study: StudySettings | None = None

    _origin: Origin = PrivateAttr(default_factory=Origin)
    _find_plugin = field_validator(
        "backbone", "pooling", "freeze", "optimizer", "sampling", "weighting", mode="before"
    )(find_plugin)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: object) -> object:
        return with_default_kinds(raw, "backbone", "pooling", "freeze", "optimizer", "sampling", "weighting")

    @field_validator("plugins", mode="before")
    @classmethod
    def _is_list(cls, raw: object) -> object:
        if isinstance(raw, str | dict):
            raise ValueError(f"plugins is a list of files, such as [my_head.py], got {quote(raw)}")
        return raw or ()

    @field_validator("plugins")
    @classmethod
    def _files_differ_in_name(cls, files: tuple[PluginFile, ...]) -> tuple[PluginFile, ...]:
        names = [file.path.name for file in files]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"plugin files must differ in name, but {enumerate_names(twice)} is there twice")
        return files

    @field_serializer("plugins")
    def _without_text(self, files: tuple[PluginFile, ...]) -> list[dict[str, str]]:
        return [{"path": str(file.path), "sha256": file.sha256} for file in files]

    @model_validator(mode="after")
    def _texts_fit(self) -> Self:
        for name, task in self.tasks.items():
            source, head = self._source_of(name), task.head
            if source not in self.data:
                continue
            if head.reads == "two pooled" and len(self.data[source].text_columns) < 2:
                raise ValueError(
                    f"head {head.kind} of task {name} reads two texts, but source {source} has one; "
                    f"name two columns: data.{source}.text: [first, second]"
                )
            if head.reads == "words" and self.data[source].words is None:
                raise ValueError(
                    f"head {head.kind} of task {name} reads words, but source {source} has texts that are not divided "
                    f"into words; name the column that has them: data.{source}.words: COLUMN"
                )
            if self.window and (
                head.reads == "words" or (len(self.data[source].text_columns) > 1 and head.reads == "pooled")
            ):
                raise ValueError(
                    f"window divides single texts, and head {head.kind} of task {name} reads "
                    f"{'words' if head.reads == 'words' else 'pairs as one sequence'}; leave out window"
                )
        return self

    @model_validator(mode="after")
    def _tasks_fit(self) -> Self:
        named = {"training.tasks": self.training.tasks or (), "weighting": self.weighting.named_tasks()}
        for path, names in named.items():
            if unknown := [name for name in names if name not in self.tasks]:
                raise ValueError(
                    f"{path} names task {enumerate_names(unknown)}, but the tasks are {enumerate_names(self.tasks)}"
                    f"{did_you_mean(unknown[0], self.tasks)}"
                )
        unused = [
            f"tasks.{name}.{setting}"
            for name, task in self.tasks.items()
            for setting, value in (("monitor", task.monitor), ("patience", task.patience))
            if value is not None and self.training.stop == "together"
        ]
        if unused:
            raise ValueError(f"{enumerate_names(unused)} needs training.stop: per_task; all tasks stop together")
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
    def trained_tasks(self) -> dict[str, Task]:
        """The tasks that are trained: all, or those that ``training.tasks`` names."""
        chosen = self.training.tasks
        return {name: task for name, task in self.tasks.items() if chosen is None or name in chosen}

    @property
    def loss_weights(self) -> dict[str, float]:
        """The factor of each task's loss before the weighting."""
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

    def dump_trained(self) -> dict[str, Any]:
        """Return the same of the tasks that are trained, and of the sources that they read, for a model of theirs."""
        whole, tasks = self.dump(), self.trained_tasks
        sources = {self._source_of(task) for task in tasks}
        return whole | {
            "data": {name: source for name, source in whole["data"].items() if name in sources},
            "tasks": {name: task for name, task in whole["tasks"].items() if name in tasks},
        }

    def written(self) -> dict[str, Any]:
        """Return what was set, without defaults and without the study section; ``Experiment`` reads it back."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"study"})
