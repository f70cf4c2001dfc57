"""A study as one MLflow run, with a run below it for each trial."""

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from topwork.engine.evaluation.comparison import Difference, SplitOutputs
from topwork.engine.evaluation.estimates import Estimate
from topwork.errors import ConfigurationError, StorageError, describe, first_line
from topwork.experiment.schema import Experiment
from topwork.lab.tracking.finished_run import find_outputs
from topwork.lab.tracking.open_run import RunWriter, short
from topwork.lab.tracking.store import PARENT_TAG, PROCESS_TAG, STUDY_TAG, TrackingStore, redact_uri
from topwork.lab.tracking.study_unsent import StudyUnsent
from topwork.lab.tracking.write import Write, is_absence
from topwork.process_name import this_process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Seconds between two writes of a trial's metrics: writing them one by one would cost more than short trainings.
WRITE_INTERVAL = 10.0

TRIAL_TAG, STATE_TAG = "topwork.trial", "topwork.state"

#: MLflow's status of a run by its trial's state.
STATUSES = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "lost": "KILLED"}

logger = logging.getLogger(__name__)


class StudyRunWriter(RunWriter):
    """Writes to a run of a study.

    Args:
        waiting: where writes wait while the store is away; None for nowhere.
    """

    def __init__(self, store: TrackingStore, run_id: str, *, waiting: StudyUnsent | None = None) -> None:
        super().__init__(store, run_id, unsent=waiting, created=waiting.note_run if waiting else lambda run_id: None)
        self.waiting = waiting

    def close(self, status: str, reason: str | None = None) -> None:
        super().close(status, reason)
        if self.waiting:
            self.waiting.remove_if_empty()

    def _keep(self, write: Write) -> bool:
        if self.waiting and self.run_id:
            self.waiting.note_run(self.run_id)
        return super()._keep(write)


class TrialLog(StudyRunWriter):
    """Writes a trial to MLflow, in few pieces.

    The objective comes first of all metrics, because MLflow's page to compare runs begins with the first.
    """

    def __init__(self, store: TrackingStore, run_id: str, *, waiting: StudyUnsent | None = None) -> None:
        super().__init__(store, run_id, waiting=waiting)
        self.step = 0
        self.written = monotonic()

    def begin(self, parameters: Mapping[str, str]) -> None:
        """Log the values that the trial is trained with."""
        tags = {"mlflow.source.type": "LOCAL"}
        self._write("parameters", lambda: Write(what="parameters", parameters=dict(parameters), tags=tags))

    def epoch(self, step: int, metrics: Mapping[str, float], objectives: Sequence[float]) -> None:
        """Buffer what an epoch gave, and write it now and then."""
        self.step = step
        named = dict(zip(objective_names(objectives), objectives, strict=True))
        self._buffer({f"epoch/{name}": value for name, value in named.items()} | dict(metrics), step)
        if monotonic() - self.written > WRITE_INTERVAL:
            self._buffer_first(named)
            self._send()
            self.written = monotonic()

    def finish(self, objectives: Sequence[float], outputs: SplitOutputs | None, experiment: Experiment) -> None:
        """Write the rest, the outcome and what is needed to compare the trial with others, and end it as complete."""
        self._buffer_first(dict(zip(objective_names(objectives), objectives, strict=True)))
        if outputs:
            self._log_resolved(experiment)
            self.log_outputs(outputs)
        self.end("complete")

    def _buffer_first(self, metrics: Mapping[str, float]) -> None:
        others, self.pending = self.pending, []
        self._buffer(metrics, self.step)
        self.pending += others

    def end(self, state: str, reason: str | None = None) -> None:
        """End the run with the trial's state and, where it failed, the reason."""
        self._log_tags({STATE_TAG: state}, "the state")
        self.close(STATUSES[state], reason)


class StudyLog(StudyRunWriter):
    """Writes a study to MLflow."""

    def start(self, experiment: Experiment, parameters: Mapping[str, str]) -> None:
        """Log what is to be searched, and how."""
        shortened = {name: short(value) for name, value in parameters.items()}
        self._write("parameters", lambda: Write(what="parameters", parameters=shortened))
        self._log_experiment(experiment)

    def log_result(
        self, objectives: Mapping[str, Sequence[float]], estimates: Mapping[str, Mapping[str, Estimate]], count: int
    ) -> None:
        """Log how many trials there were, and the objectives and test figures of the first and the best trial."""
        final: dict[str, float] = {"trials": count}
        for trial, values in objectives.items():
            final |= {f"{trial}/{name}": value for name, value in zip(objective_names(values), values, strict=True)}
        for trial, figures in estimates.items():
            for name, estimate in figures.items():
                ends = {"": estimate.value, "/low": estimate.low, "/high": estimate.high}
                final |= {f"{trial}/test/{name}{end}": value for end, value in ends.items()}
        self._log_metrics({name: value for name, value in final.items() if not math.isnan(value)}, 0)

    def log_figures(self, figures: Mapping[str, Estimate | Difference]) -> None:
        """Log figures with their intervals."""
        final = {
            f"{name}{end}": value
            for name, figure in figures.items()
            for end, value in (("", figure.value), ("/low", figure.low), ("/high", figure.high))
        }
        self._log_metrics({name: value for name, value in final.items() if not math.isnan(value)}, 0)

    def log_files(self, figures: Mapping[str, "Figure"], texts: Mapping[str, str]) -> None:
        """Log figures, pages and files."""
        for name, figure in figures.items():
            self._log_figure(name, partial(_drawn, figure))
        for name, text in texts.items():
            self._log_text(name, text)

    def sync_states(self, states: Mapping[int, str]) -> None:
        """Give each trial's run the state of its trial, also where a process died before it could."""

        try:
            with self.store.defer_signals():
                self._sync_states(states)
        except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
            logger.warning("the states of trials could not be logged to MLflow: %s", describe(error))

    def _sync_states(self, states: Mapping[int, str]) -> None:
        token: str | None = None
        while token is None or token:
            query = f"tags.`{PARENT_TAG}` = '{self.run_id}'"
            page = self.store.client.search_runs([self.store.experiment_id], query, max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                state = states.get(int(tags.get(TRIAL_TAG, "-1")), "lost")
                if state != "running" and (tags.get(STATE_TAG) != state or run.info.status == "RUNNING"):
                    TrialLog(self.store, run.info.run_id).end(state)
            token = page.token or ""


def open_study_log(
    store: TrackingStore, run_id: str | None, name: str, digest: str, *, waiting: StudyUnsent | None = None
) -> StudyLog:
    """Start a study's run, or resume the one that an earlier process started.

    Args:
        waiting: where writes wait while the store is away; None for nowhere.

    Raises:
        ConfigurationError: it was begun in another MLflow experiment.
        StorageError: the store does not take it.
    """
    tags = {STUDY_TAG: name, "data.digest": digest, PROCESS_TAG: this_process()}
    try:
        if run_id and _reopen(store, run_id, tags):
            return StudyLog(store, run_id, waiting=waiting)
        run = store.client.create_run(store.experiment_id, run_name=name, tags=tags)
        return StudyLog(store, run.info.run_id, waiting=waiting)
    except ConfigurationError:
        raise
    except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
        raise StorageError(
            f"the MLflow store {redact_uri(store.uri)} does not take the study: {first_line(error)}; "
            "fix that, or go without it: --set tracking.enabled=false"
        ) from error


def open_trial_log(
    store: TrackingStore,
    parent: str,
    study: str,
    number: int,
    values: Mapping[str, object],
    digest: str,
    *,
    waiting: StudyUnsent | None = None,
) -> TrialLog | None:
    """Begin a trial's run below its study's; None, with a warning, where the store does not take it.

    Args:
        waiting: where writes wait while the store is away, the run's creation too; None for nowhere.
    """
    tags = {
        PARENT_TAG: parent,
        STUDY_TAG: study,
        TRIAL_TAG: str(number),
        STATE_TAG: "running",
        "data.digest": digest,
        PROCESS_TAG: this_process(),
    }
    name = f"{study}-{number}"
    try:
        run_id = store.client.create_run(store.experiment_id, run_name=name, tags=tags).info.run_id
    except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
        if waiting is None or not is_absence(error):
            logger.warning("trial %d could not be logged to MLflow: %s", number, describe(error))
            return None
        run_id = ""
        waiting.add(Write(what=name, create=tags))
    log = TrialLog(store, run_id, waiting=waiting)
    log.begin({name: short(value) for name, value in values.items()})
    return log


def fetch_outputs(store: TrackingStore, run_id: str) -> bytes | None:
    """Return the outputs of a trial's models for the test rows; None, with a warning, where they cannot be had."""
    try:
        with store.defer_signals(), tempfile.TemporaryDirectory() as folder:
            artifact = find_outputs(store.client, run_id)
            return Path(store.client.download_artifacts(run_id, artifact, folder)).read_bytes() if artifact else None
    except Exception as error:  # as above
        logger.warning("MLflow has no outputs of run %s: %s", run_id, first_line(error))
        return None


def _drawn(figure: "Figure") -> "Figure":
    return figure


def objective_names(values: Sequence[object]) -> list[str]:
    """Name one objective ``objective`` and several ``objective_1``, ``objective_2``: MLflow refuses brackets."""
    return ["objective"] if len(values) == 1 else [f"objective_{number}" for number in range(1, len(values) + 1)]


def _reopen(store: TrackingStore, run_id: str, tags: Mapping[str, str]) -> bool:
    """Set a run to running again; False where it is gone.

    Raises:
        ConfigurationError: it stands in another MLflow experiment.
    """
    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        return False
    if run.info.lifecycle_stage != "active":
        return False
    if run.info.experiment_id != store.experiment_id:
        begun, now = (store.client.get_experiment(one).name for one in (run.info.experiment_id, store.experiment_id))
        raise ConfigurationError(
            f"study {tags[STUDY_TAG]!r} was begun in the MLflow experiment {begun!r}, and tracking.experiment is now "
            f"{now!r}; change it back to resume, or set another study.name to start anew"
        )
    store.client.update_run(run_id, status="RUNNING")
    for name, value in tags.items():
        store.client.set_tag(run_id, name, value)
    return True
