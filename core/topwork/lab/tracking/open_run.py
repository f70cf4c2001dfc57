"""An MLflow run that is being written."""

import io
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Metric
from ruamel.yaml import YAML

from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.errors import describe
from topwork.experiment.schema import Experiment
from topwork.lab.tracking.finished_run import OUTPUTS_FILE
from topwork.lab.tracking.store import TrackingStore, redact_text, redact_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: MLflow's limit for the value of a parameter; longer ones are in the artifact experiment.resolved.yaml.
MAX_PARAMETER_LENGTH = 6000

#: MLflow takes 1,000 at once.
MAX_METRICS_PER_BATCH = 1000

logger = logging.getLogger(__name__)


class RunWriter:
    """Writes to an MLflow run, and never lets an error of MLflow's end what it writes of.

    Metrics that could not be written are kept and sent with the next ones.

    Args:
        reopened: whether an earlier process wrote to the run; what it wrote of a step is not written again.
    """

    def __init__(self, store: TrackingStore, run_id: str, *, reopened: bool = False) -> None:
        self.store = store
        self.run_id = run_id
        self.reopened = reopened
        self.unsent: list[Metric] = []
        self._written: set[tuple[str, int]] | None = None if reopened else set()

    def log_outputs(self, outputs: SplitOutputs) -> None:
        """Keep the model's outputs for each row, so that runs can be compared row by row."""

        def store_outputs() -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / OUTPUTS_FILE
                path.write_bytes(outputs.to_bytes())
                self.store.client.log_artifact(self.run_id, str(path))

        self._attempt(OUTPUTS_FILE, store_outputs)

    def close(self, status: str, reason: str | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        if reason:
            self._attempt("the reason", lambda: self.store.client.set_tag(self.run_id, "topwork.reason", reason[:4000]))
        self._send()
        if self.unsent:
            logger.warning("%d metric values could not be written to %s", len(self.unsent), redact_uri(self.store.uri))
        self._attempt("the end of the run", lambda: self.store.client.set_terminated(self.run_id, status=status))

    def _log_experiment(self, experiment: Experiment) -> None:
        self._log_text("experiment.yaml", redact_text(experiment.origin.text or as_yaml(experiment)))
        self._log_resolved(experiment)

    def _log_resolved(self, experiment: Experiment) -> None:
        self._log_text("experiment.resolved.yaml", redact_text(as_yaml(experiment)))

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._buffer(metrics, step)
        self._send()

    def _buffer(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.unsent += [Metric(name, value, now, step) for name, value in metrics.items()]

    def _send(self) -> None:
        if self._written is None and not self._attempt("what MLflow has already", self._read_written):
            return
        self.unsent = [metric for metric in self.unsent if (metric.key, metric.step) not in (self._written or ())]
        while batch := self.unsent[:MAX_METRICS_PER_BATCH]:
            if not self._attempt("metrics", partial(self.store.client.log_batch, self.run_id, metrics=batch)):
                return
            del self.unsent[: len(batch)]

    def _read_written(self) -> None:
        names = self.store.client.get_run(self.run_id).data.metrics
        histories = [self.store.client.get_metric_history(self.run_id, name) for name in names]
        self._written = {(metric.key, metric.step) for history in histories for metric in history}

    def _log_figure(self, name: str, draw: Callable[[], "Figure"]) -> None:
        path = f"figures/{name}.png"
        self._attempt(path, lambda: self.store.client.log_figure(self.run_id, draw(), path))

    def _log_table(self, name: str, write: Callable[[], str]) -> None:
        path = f"figures/{name}.csv"
        self._attempt(path, lambda: self.store.client.log_text(self.run_id, write(), path))

    def _log_text(self, name: str, text: str) -> None:
        self._attempt(name, lambda: self.store.client.log_text(self.run_id, text, name))

    def _attempt(self, what: str, call: Callable[[], object]) -> bool:
        try:
            with self.store.defer_signals():
                call()
        except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
            logger.warning("%s could not be logged to MLflow: %s", what, describe(error))
            return False
        return True


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
