"""An MLflow run that is being written."""

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.errors import StorageError, describe, first_line
from topwork.experiment.schema import Experiment
from topwork.lab.tracking.finished_run import OUTPUTS_FILE, PLUGINS
from topwork.lab.tracking.store import (
    REASON_TAG,
    TrackingStore,
    check_reachable,
    redact_text,
    redact_uri,
    root_cause,
)
from topwork.lab.tracking.unsent import Unsent
from topwork.lab.tracking.write import MAX_METRICS_PER_BATCH, RunEditor, Write, is_absence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: MLflow's limit for the value of a parameter; longer ones are in the artifact experiment.resolved.yaml.
MAX_PARAMETER_LENGTH = 6000

logger = logging.getLogger(__name__)


class RunWriter:
    """Writes to an MLflow run, and never lets an error of MLflow's end what it writes of.

    What a store that does not answer could not be told waits on disk, and is sent when it answers again.

    Args:
        reopened: whether an earlier process wrote to the run; what it wrote of a step is not written again.
        unsent: where writes wait; None for nowhere, and then they are lost, but for metrics.
        created: is called with MLflow's id of a run that could not be created before.
    """

    def __init__(
        self,
        store: TrackingStore,
        run_id: str,
        *,
        reopened: bool = False,
        unsent: Unsent | None = None,
        created: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self.store = store
        self.editor = RunEditor(store, run_id, reopened=reopened, created=created)
        self.pending: list[tuple[str, float, int, int]] = []
        self._unsent = unsent
        self._away = AwayStore(0.0) if store.away or (unsent and unsent.paths()) else None

    @property
    def run_id(self) -> str:
        """MLflow's, empty where the store is away and the run is yet to be created."""
        return self.editor.run_id

    def log_outputs(self, outputs: SplitOutputs) -> None:
        """Keep the model's outputs for each row, so that runs can be compared row by row."""
        self._log_file(OUTPUTS_FILE, outputs.to_bytes)

    def close(self, status: str, reason: str | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        if reason:
            self._write("the reason", lambda: Write(what="the reason", tags={REASON_TAG: reason[:4000]}))
        self._send()
        if self.pending:
            logger.warning("%d metric values could not be written to %s", len(self.pending), redact_uri(self.store.uri))
        if self._away:
            self._away.retry_at = 0.0  # once more
        self._write("the end of the run", lambda: Write(what="the end of the run", status=status))
        if self._unsent and (waiting := len(self._unsent.paths())):
            logger.warning(
                "the MLflow store %s does not answer: %d writes wait in %s; %s",
                redact_uri(self.store.uri),
                waiting,
                self._unsent.folder,
                self._unsent.remedy,
            )

    def _log_experiment(self, experiment: Experiment) -> None:
        self._log_text("experiment.yaml", redact_text(experiment.origin.text or as_yaml(experiment)))
        self._log_resolved(experiment)
        for file in experiment.plugins:
            self._log_text(f"{PLUGINS}/{file.path.name}", file.text)

    def _log_resolved(self, experiment: Experiment) -> None:
        self._log_text("experiment.resolved.yaml", redact_text(as_yaml(experiment)))

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._buffer(metrics, step)
        self._send()

    def _buffer(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.pending += [(name, value, now, step) for name, value in metrics.items()]

    def _send(self) -> None:
        """Write the metrics that were buffered; those that could not be written are kept for the next time."""
        while batch := self.pending[:MAX_METRICS_PER_BATCH]:
            if not self._write("metrics", partial(Write, what="metrics", metrics=batch)):
                return
            del self.pending[: len(batch)]

    def _log_figure(self, name: str, draw: Callable[[], "Figure"]) -> None:
        self._log_file(f"figures/{name}.png", lambda: as_png(draw()))

    def _log_table(self, name: str, write: Callable[[], str]) -> None:
        self._log_file(f"figures/{name}.csv", lambda: write().encode())

    def _log_text(self, name: str, text: str) -> None:
        self._log_file(name, text.encode)

    def _log_json(self, name: str, what: str, make: Callable[[], object]) -> None:
        self._write(what, lambda: Write(what=what, artifact=name, content=json.dumps(make(), indent=2).encode()))

    def _log_file(self, name: str, make: Callable[[], bytes]) -> None:
        self._write(name, lambda: Write(what=name, artifact=name, content=make()))

    def _log_tags(self, tags: Mapping[str, str], what: str = "tags") -> None:
        self._write(what, lambda: Write(what=what, tags=dict(tags)))

    def _write(self, what: str, make: Callable[[], Write]) -> bool:
        """Write something, or let it wait where the store is away; return whether it is not lost."""
        try:
            write = make()
            if self._away and not self._try_again():
                return self._keep(write)
            with self.store.defer_signals():
                self.editor.apply(write)
        except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
            if self._unsent and is_absence(error):
                self._away = AwayStore()
                logger.warning(
                    "the MLflow store %s does not answer: %s; training goes on, and what is logged waits in %s",
                    redact_uri(self.store.uri),
                    redact_uri(first_line(root_cause(error))),
                    self._unsent.folder,
                )
                return self._keep(write)
            logger.warning("%s could not be logged to MLflow: %s", what, describe(error))
            return False
        return True

    def _try_again(self) -> bool:
        """See now and then whether the store is back, and send what waits for it."""
        if self._away is None or self._unsent is None or not self._away.is_due():
            return self._away is None
        try:
            check_reachable(self.store.uri)
            self._unsent.send(self.editor)
        except Exception:  # as above
            self._away.wait_longer()
            return False
        logger.warning("the MLflow store %s answers again", redact_uri(self.store.uri))
        self._away = None
        return True

    def _keep(self, write: Write) -> bool:
        """Let a write wait on disk; return whether it could be put there."""
        try:
            if self._unsent:
                self._unsent.add(write)
        except StorageError as error:
            logger.warning("%s is lost to MLflow: %s", write.what, error)
            return False
        return True


class AwayStore:
    """When a store that does not answer is asked again: after ten seconds, and then ever more seldom."""

    def __init__(self, delay: float = 10.0) -> None:
        self.delay = 10.0
        self.retry_at = time.monotonic() + delay

    def is_due(self) -> bool:
        """Whether it is time to ask it again."""
        return time.monotonic() >= self.retry_at

    def wait_longer(self) -> None:
        """Wait twice as long for the next time, up to five minutes."""
        self.delay = min(2 * self.delay, 300.0)
        self.retry_at = time.monotonic() + self.delay


def as_png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def short(value: object) -> str:
    """Cut a parameter's value down to what MLflow takes, and say so in it."""
    text = str(value)
    return (
        text
        if len(text) <= MAX_PARAMETER_LENGTH
        else f"{text[: MAX_PARAMETER_LENGTH - 50]}... (whole in experiment.resolved.yaml)"
    )


def as_yaml(experiment: Experiment) -> str:
    """Return the experiment with every default as YAML."""
    buffer = io.StringIO()
    YAML().dump(experiment.dump(), buffer)
    return buffer.getvalue()
