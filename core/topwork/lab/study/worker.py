"""A worker: a process of one thread that trains trials until none is left.

Its standard input brings its job in one line and the start in another; when that input ends, its parent is gone.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import torch
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints, StopRequest
from topwork.errors import DataError, StorageError, TopworkError, text_of
from topwork.experiment.schema import Experiment
from topwork.files import write_file
from topwork.interfaces.backbone import Backbone
from topwork.lab.run_identity import digest_of_weights, identity_of_training
from topwork.lab.study.resolved_study import resolve_study
from topwork.lab.study.search_space import values_of, with_logarithms
from topwork.lab.study.storage import HEARTBEAT_SECONDS, open_storage
from topwork.lab.study.trial import TrialOutcome, train_trial
from topwork.lab.study.trial_queue import TrialQueue, join_trial_queue
from topwork.lab.study.trial_states import NOTES, RUN
from topwork.lab.study.worker_job import WorkerJob, checkpoints_of, outputs_file
from topwork.lab.tracking.store import TrackingStore, store_of
from topwork.lab.tracking.study_log import TrialLog, open_trial_log
from topwork.lab.tracking.study_unsent import StudyUnsent
from topwork.registry import discover

#: Seconds of training that a trial may lose; a shorter one begins anew when it is queued again.
SHORT_TRIAL = 60.0


class StoppedError(Exception):
    """The worker was asked to stop, or its parent process has ended."""


class StopOnEvent(StopRequest):
    """Stops a training where an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def is_made(self) -> bool:
        return self.event.is_set()

    def obey(self) -> None:
        """Raise what ends the training, if the event is set.

        Raises:
            StoppedError: it is.
        """
        if self.event.is_set():
            raise StoppedError


class PrunedError(Exception):
    """The pruner ended the trial."""


class Worker:
    """Asks for trials, trains them, and records what came of them."""

    def __init__(self, job: WorkerJob, stop: threading.Event) -> None:
        self.job = job
        self.stop = stop
        self.registry = discover(job.plugins)
        experiment = Experiment.model_validate(job.experiment, context={"registry": self.registry})
        self.study = resolve_study(experiment, self.registry)
        self.queue: TrialQueue = join_trial_queue(
            open_storage(job.storage),
            self.study.name,
            self.study.settings,
            self.study.search,
            epochs=self.study.total_epochs,
        )
        self.queue.since = job.since
        self.store: TrackingStore | None = store_of(job.tracked.uri, job.tracked.experiment_id) if job.tracked else None
        self.cache = PreparationCache()
        self._digested: tuple[Backbone, str] | None = None
        prepared = self.cache.prepare(experiment)  # what the first trial needs, before it is on the clock
        if prepared.dataset.digest != job.digest:
            raise DataError("the data has changed since the study began; put it back, or begin another study")

    def work(self) -> None:
        """Train trials until there are no more, or until stopped."""
        while not self.stop.is_set() and (trial := self.queue.ask(deadline=self.job.deadline)) is not None:
            with heartbeat(self.queue, trial.number):
                self.train(trial)

    def train(self, trial: optuna.Trial) -> None:
        """Train one trial. Whatever happens to it is recorded, in MLflow first."""
        log = self._open_log(trial)
        pruning = self.study.settings.pruner != "none"
        stop = StopOnEvent(self.stop)
        checkpoints: list[CheckpointFolder] = []
        notes: list[str] = []

        def get_checkpoints(prepared: Preparation) -> Checkpoints:
            training = prepared.experiment.training
            device = make_accelerator(training).device
            exact = device.type == "cpu"
            if not exact and self.study.settings.launcher == "local":
                return Checkpoints()  # it would not go on to the same bits, so it begins anew; a job has not the time
            identity = identity_of_training(prepared.experiment, prepared, self.registry, device)
            identity |= {"sha256 of the backbone": self._digest_of_backbone(prepared)}
            checkpoints.append(checkpoints_of(self.job.folder, identity))
            if not exact and checkpoints[-1].paths():
                notes.append(f"went on from a checkpoint on {device.type}, which may add in another order each time")
            return Checkpoints(checkpoints[-1], training.checkpoint_minutes, stop=stop, worthwhile=SHORT_TRIAL)

        def on_epoch(step: int, metrics: Mapping[str, float], objectives: Sequence[float], again: bool) -> None:
            if log:
                log.epoch(step, metrics, objectives)
            if pruning:
                trial.report(objectives[0], step)
                if not again and trial.should_prune():
                    raise PrunedError

        values = values_of(trial.params, self.study.search)
        try:
            outcome = train_trial(
                self.cache, self.study, values, check=stop.obey, on_epoch=on_epoch, get_checkpoints=get_checkpoints
            )
        except StoppedError:
            if log:
                log.end("lost", "interrupted")
            self.queue.mark_interrupted(trial)
        except PrunedError:
            if log:
                log.end("pruned")
            self.queue.prune(trial)
        except (StorageError, SQLAlchemyError, OptunaError):
            raise  # a disk or a database; the next trial would fare no better, and this one is queued again
        except Exception as error:  # a plugin, torch, or memory; the study goes on
            kind = "" if isinstance(error, TopworkError) else f"{type(error).__name__}: "
            reason = f"{kind}{text_of(error)}"
            if log:
                log.end("failed", reason)
            self.queue.fail(trial, reason)
        else:
            self._keep(trial, outcome, values, log)
            trial.set_user_attr("training_seconds", outcome.training_seconds)
            trial.set_user_attr(NOTES, [*outcome.notes, *notes])
            self.queue.complete(trial, outcome.values)
        if not self.stop.is_set():
            for folder in checkpoints:
                folder.remove()

    def _digest_of_backbone(self, prepared: Preparation) -> str:
        """The sha256 of a backbone's weights before training, found once for all trials that share it."""
        backbone = prepared.model.backbone
        if self._digested is None or self._digested[0] is not backbone:
            self._digested = backbone, digest_of_weights(backbone)
        return self._digested[1]

    def _open_log(self, trial: optuna.Trial) -> TrialLog | None:
        if self.store is None or self.job.tracked is None:
            return None
        log = open_trial_log(
            self.store,
            self.job.tracked.run_id,
            self.study.name,
            trial.number,
            with_logarithms(trial.params, self.study.search),
            self.job.digest,
            waiting=StudyUnsent(self.job.folder, self.queue.id, str(trial.number)),
        )
        if log and log.run_id:
            trial.set_user_attr(RUN, log.run_id)
        return log

    def _keep(
        self, trial: optuna.Trial, outcome: TrialOutcome, values: Mapping[str, Any], log: TrialLog | None
    ) -> None:
        if outcome.outputs:
            write_file(outputs_file(self.job.folder, self.queue.id, trial.number), outcome.outputs.to_bytes())
        if log:
            log.finish(outcome.values, outcome.outputs, self.study.trial_experiment(values))


@contextmanager
def heartbeat(queue: TrialQueue, number: int) -> Iterator[None]:
    """Record heartbeats of a trial while the block lasts."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with suppress(SQLAlchemyError, OptunaError):  # perhaps passing; the next one may get through
                queue.record_heartbeat(number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stop_event_on_signal(stop: threading.Event) -> Callable[[], None]:
    """Set ``stop`` on SIGTERM, and return what watches for the end of standard input, when the parent is gone."""
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock a thread must not hold when Python ends
            pass
        stop.set()

    return threading.Thread(target=watch, daemon=True).start


def main() -> None:
    """Read the job and work."""
    stop = threading.Event()
    watch = stop_event_on_signal(stop)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the parent has given those of the experiment
    try:
        if not (job := sys.stdin.readline()):
            return  # the parent ended before there was anything to do
        worker = Worker(WorkerJob.model_validate_json(job), stop)
        if sys.stdin.readline():
            watch()
            worker.work()
    except TopworkError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
