"""One training run as one MLflow run."""

import json
import logging
import math
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import ViewType

from topwork.engine.data_report import describe_data
from topwork.engine.evaluation.comparison import Difference, SplitOutputs
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.model_folder import needed_plugins
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.engine.preparation import Preparation
from topwork.engine.training.gradients import NORM
from topwork.errors import StorageError, describe, first_line
from topwork.experiment.schema import Experiment
from topwork.interfaces.head import Head, HeadFigure
from topwork.lab.result import Result, SeedsResult
from topwork.lab.run_folder import RunTraining
from topwork.lab.run_identity import kinds_of
from topwork.lab.tracking.open_run import MAX_PARAMETER_LENGTH, RunWriter, short
from topwork.lab.tracking.store import (
    PARENT_TAG,
    PROCESS_TAG,
    REASON_TAG,
    TrackingStore,
    flatten,
    redact_uri,
    root_cause,
)
from topwork.lab.tracking.unsent import Unsent
from topwork.lab.tracking.write import ServedModel, Source, Write, is_absence
from topwork.process_name import this_process
from topwork.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Which training of which run an MLflow run is; and why it may not be exact.
TRAINING_TAG, INEXACT_TAG = "topwork.training", "topwork.inexact"

logger = logging.getLogger(__name__)


class RunLog(RunWriter, Observer):
    """Writes what happens in a training run to MLflow."""

    def __init__(
        self,
        store: TrackingStore,
        run_id: str,
        *,
        reopened: bool = False,
        unsent: Unsent | None = None,
        created: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        super().__init__(store, run_id, reopened=reopened, unsent=unsent, created=created)
        self.last_epoch = 0
        self.reports: list[EncodingReport] = []
        self._goes_on = False

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        self._goes_on = True
        for epoch in epochs:
            self.epoch(epoch)

    def epoch(self, epoch: Epoch) -> None:
        self.last_epoch = epoch.number
        rates = {f"learning_rate/{group}": rate for group, rate in epoch.learning_rates.items()}
        self._log_metrics(epoch.metrics | rates | {"texts_per_second/training": epoch.texts_per_second}, epoch.number)

    def encoded(self, report: EncodingReport) -> None:
        if not self._goes_on:  # else the process that began the phase has logged what it found
            figures = {"activations/texts": report.texts, "activations/found": report.found}
            rate = report.texts_per_second
            self._log_metrics(figures | ({"texts_per_second/encoding": rate} if rate else {}), self.last_epoch)
        self._goes_on = False
        self.reports.append(report)
        where, note = (
            "; ".join(dict.fromkeys(getattr(one, name) for one in self.reports)) for name in ("where", "note")
        )
        self._log_tags({"activations.where": where, "activations.note": note[:MAX_PARAMETER_LENGTH]})

    def log_start(self, prepared: Preparation, registry: Registry, *, brief: bool = False) -> None:
        """Log everything that is known before training.

        Args:
            brief: leave out what the run has that this one is below.
        """
        experiment, plan = prepared.experiment, prepared.plan
        # of a group that changes during the run, the size in its last phase
        sizes = {f"plan.trainable.{group.name}": plan.size(group) for phase in plan.phases for group in phase.groups}
        counts = {"plan.trainable": plan.trainable_numbers, "plan.frozen": plan.frozen, **sizes}
        splits = prepared.dataset.splits
        counts |= {f"rows.{name}": len(split.texts) for name, split in splits.items()}
        counts |= {
            f"labelled.{task}.{name}": count
            for name, split in splits.items()
            for task, count in split.labelled_counts.items()
            if count < len(split.texts)
        }
        settings = {name: value for name, value in flatten(experiment.dump()).items() if name != "name"}
        settings["plugins"] = ", ".join(f"{file.path.name} {file.version}" for file in experiment.plugins)
        if experiment.tracking.uri:
            settings["tracking.uri"] = redact_uri(experiment.tracking.uri)
        shortened = {name: short(value) for name, value in (settings | counts).items()}
        self._write("parameters", lambda: Write(what="parameters", parameters=shortened))
        self._log_experiment(experiment)
        self._log_json("plan.json", "the plan", plan.dump)
        if not brief:
            self._log_warnings(prepared.warnings)
            parts = experiment.label_columns, prepared.dataset, prepared.corpus
            self._log_json("data.json", "what the rows are like", lambda: describe_data(*parts).dump())
            self._log_sources(prepared)
        self._log_provenance(prepared, registry)

    def log_result(self, result: Result) -> None:
        """Log the final metrics, the learning curves and all warnings."""
        from topwork.lab.figures import gradient_figure, learning_curves

        self._log_warnings(result.warnings)
        # Names of their own: under those of the epochs, MLflow would show the last epoch's figures, not the best's.
        final: dict[str, float] = {
            "best_epoch": result.best_epoch,
            **{f"best/{name}": value for name, value in result.metrics.items()},
        }
        if set(result.best_epochs.values()) != {result.best_epoch}:
            final |= {f"best_epoch/{task}": epoch for task, epoch in result.best_epochs.items()}
        final |= _with_ends(result.estimates, result.split)
        self._log_metrics({name: value for name, value in final.items() if not math.isnan(value)}, result.best_epoch)
        self._log_figure("learning_curves", lambda: learning_curves(result.epochs, result.best_epoch))
        if any(name.startswith(NORM) for epoch in result.epochs for name in epoch.metrics):
            self._log_figure("gradients", lambda: gradient_figure(result.epochs))

    def log_seeds(self, result: SeedsResult) -> None:
        """Log the means over seeds, with intervals and standard deviations, and all warnings."""
        self._log_warnings(result.warnings)
        final = _with_ends(result.estimates, result.split)
        prefix = _prefix(result.split)
        final |= {f"{prefix}{name}/sd": one.sd for name, one in result.estimates.items() if one.sd is not None}
        self._log_metrics({name: value for name, value in final.items() if not math.isnan(value)}, 0)

    def log_gains(self, gains: Mapping[str, Difference], split: str) -> None:
        """Log what tasks gained from being trained together."""
        final = _with_ends({f"{name}/against_alone": gain for name, gain in gains.items()}, split)
        self._log_metrics({name: value for name, value in final.items() if not math.isnan(value)}, self.last_epoch)

    def log_head_figures(self, heads: Mapping[str, Head], outputs: SplitOutputs) -> None:
        """Log what the head of each task draws of its outputs."""
        for task, head in ((task, head) for task, head in heads.items() if task in outputs.outputs):
            for figure in head.figures:
                self._log_figure(f"{figure.name}_{task}", partial(_draw, figure, task, outputs))
                if figure.table:
                    parts = outputs.outputs[task], outputs.targets[task], outputs.labels[task]
                    self._log_table(f"{figure.name}_{task}", partial(figure.table, *parts))

    def log_model(self, folder: Path, example: list[str], registry: Registry, experiment: Experiment) -> None:
        """Store the trained model as an MLflow model that ``mlflow.pyfunc`` loads and serves."""
        needed = {(plugin.package, plugin.version) for plugin in needed_plugins(experiment.dump(), registry)}
        requirements = sorted({f"topwork=={version('topwork')}", *(f"{name}=={number}" for name, number in needed)})

        served = ServedModel(folder=folder, example=example, requirements=requirements)
        self._write("the model", lambda: Write(what="the model", model=served))

    def note_inexact(self, reasons: Sequence[str]) -> None:
        """Note in the run that it went on although it may give other bits than it would have given undisturbed."""
        if reasons:
            self._log_tags({INEXACT_TAG: "; ".join(reasons)[:MAX_PARAMETER_LENGTH]})

    def _log_warnings(self, warnings: list[str]) -> None:
        if warnings:
            self._log_text("warnings.txt", "\n".join(warnings) + "\n")

    def _log_sources(self, prepared: Preparation) -> None:
        sources = [
            Source(
                name=name,
                digest=prepared.dataset.digests[path][:36],  # as MLflow takes it; the tag data.digest has all of it
                kind="hugging_face" if source.hub else "local",
                uri=json.dumps({"uri": str(path) if source.hub else path.as_uri()}),
                context="rows" if split == "all" else split,
            )
            for name, source in prepared.experiment.data.items()
            for split, path in source.files().items()
        ]
        self._write("the sources", lambda: Write(what="the sources", sources=sources))

    def _log_provenance(self, prepared: Preparation, registry: Registry) -> None:
        experiment = prepared.experiment
        packages = ["topwork", "torch", "transformers", "accelerate", "pydantic", "mlflow"]
        tags = {f"version.{name}": version(name) for name in packages} | {"version.python": platform.python_version()}
        for catalog, kind in kinds_of(experiment):
            plugin = registry.catalogs()[catalog].plugins.get(kind)
            if plugin is not None:
                tags[f"plugin.{plugin.interface.replace(' ', '_')}.{kind}"] = f"{plugin.package} {plugin.version}"
        tags["data.digest"] = prepared.dataset.digest
        tags["plan.digest"] = prepared.plan.digest
        tags |= {"mlflow.source.name": str(experiment.origin.file or "python"), "mlflow.source.type": "LOCAL"}
        self._log_tags(tags | git_state(experiment.origin.file))


def _prefix(split: str) -> str:
    """What the names of final metrics begin with."""
    return "test/" if split == "test" else f"best/{split}/"


def _with_ends(figures: Mapping[str, Estimate | Difference], split: str) -> dict[str, float]:
    """Return each figure and the ends of its interval, by the name of the metric."""
    prefix = _prefix(split)
    return {
        f"{prefix}{name}{end}": value
        for name, figure in figures.items()
        for end, value in (("", figure.value), ("/low", figure.low), ("/high", figure.high))
    }


def _draw(figure: HeadFigure, task: str, outputs: SplitOutputs) -> "Figure":
    drawn = figure.draw(outputs.outputs[task], outputs.targets[task], outputs.labels[task])
    drawn.suptitle(task, parse_math=False)  # a $ in a name is a dollar
    return drawn


@contextmanager
def log_run(
    store: TrackingStore, name: str, *, below: RunLog | None = None, training: RunTraining | None = None
) -> Iterator[RunLog]:
    """Open an MLflow run, perhaps ``below`` another, and see to it that it is closed, however the block ends.

    Args:
        training: that is to be logged; where it goes on, so does its run. Where the store is away, its writes wait.

    Raises:
        StorageError: the store cannot be written.
    """
    tags = {PARENT_TAG: below.run_id} if below else {}
    with ExitStack() as at_the_end:
        with store.defer_signals():
            log = _open(store, name, tags, training) if training else _create(store, name, tags)
            at_the_end.push(partial(_close, log))
            if training and log.run_id:
                training.set_mlflow_id(log.run_id)
        yield log


def _open(store: TrackingStore, name: str, tags: Mapping[str, str], training: RunTraining) -> RunLog:
    """Begin the run of a training, or go on with the one that it has.

    Raises:
        StorageError: the store cannot be read or written.
    """
    unsent, noted = training.unsent, training.mlflow_id
    make = partial(RunLog, store, unsent=unsent, created=training.set_mlflow_id)
    tags = {PROCESS_TAG: this_process(), TRAINING_TAG: training.id, **tags}
    if not noted and unsent.creates_run:
        return make("")  # an earlier process could not create it, and left word to do so
    try:
        run_id = noted if store.away else _reopen(store, training) if training.run.resumed else None
        if store.away and run_id:
            unsent.add(Write(what="that the run goes on", tags={PROCESS_TAG: this_process()}, status="RUNNING"))
        if run_id:
            return make(run_id, reopened=True)
        return make(store.client.create_run(store.experiment_id, run_name=name, tags=tags).info.run_id)
    except Exception as error:  # whatever mlflow, sqlalchemy or a database driver raises
        if training.run.training().mlflow_id and is_absence(error):  # the store was there when the run began
            logger.warning(
                "the MLflow store %s does not answer: %s", redact_uri(store.uri), redact_uri(describe(error))
            )
            unsent.add(Write(what=name, create=tags))
            return make("")
        raise _no_run(store, error) from error


def _reopen(store: TrackingStore, training: RunTraining) -> str | None:
    """Set the run of a training to running again; return its id, None where the MLflow experiment has none."""
    query = f"tags.`{TRAINING_TAG}` = '{training.id}'"
    found = store.client.search_runs([store.experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1)
    if not found:
        return None
    run_id = str(found[0].info.run_id)
    store.client.set_tag(run_id, PROCESS_TAG, this_process())
    store.client.update_run(run_id, status="RUNNING")
    if REASON_TAG in found[0].data.tags:
        store.client.delete_tag(run_id, REASON_TAG)
    return run_id


def _create(store: TrackingStore, name: str, tags: Mapping[str, str]) -> RunLog:
    """Begin a run.

    Raises:
        StorageError: the store cannot be written.
    """
    try:
        tags = {PROCESS_TAG: this_process(), **tags}
        return RunLog(store, store.client.create_run(store.experiment_id, run_name=name, tags=tags).info.run_id)
    except Exception as error:  # as above
        raise _no_run(store, error) from error


def _no_run(store: TrackingStore, error: Exception) -> StorageError:
    why = redact_uri(first_line(root_cause(error)))
    return StorageError(
        f"no run can be begun in the MLflow store {redact_uri(store.uri)}: {why}; "
        "fix that, or train without it: --set tracking.enabled=false"
    )


def _close(log: RunLog, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
    """End a run as what ended the block says."""
    if error is None:
        log.close("FINISHED")
    elif isinstance(error, KeyboardInterrupt | SystemExit):
        log.close("KILLED", f"interrupted: {type(error).__name__}")
    else:
        log.close("FAILED", f"{type(error).__name__}: {error}")


def git_state(file: Path | None) -> dict[str, str]:
    """Commit and cleanliness of the git checkout around an experiment file, or around this folder; empty outside."""
    folder = file.parent if file else Path()

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        changes = git("status", "--porcelain", "--untracked-files=no")
        changes += git("status", "--porcelain", "--", file.name) if file else ""  # the experiment may be untracked
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changes.strip())).lower()}
