"""A worker: a process of one thread that trains trials until none is left.

Its standard input brings its job in one line and the start in another. Its end is the end of the parent.
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
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.workbench import Workbench
from topwork.errors import DataError, StorageError, TopworkError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import find_searched, study_of
from topwork.files import write_file
from topwork.lab.study.ledger import RUN, Ledger, load_ledger, values_of
from topwork.lab.study.storage import HEARTBEAT, open_storage
from topwork.lab.study.trial import Outcome, most_epochs, seeds_of, train_trial, vary_trial
from topwork.lab.study.worker_job import Job, judged_file
from topwork.lab.tracking.store import Store, store_of
from topwork.lab.tracking.study_log import TrialLog, open_trial_log
from topwork.registry import Registry, discover


class StoppedError(Exception):
    """The worker was asked to stop, or whoever began it is gone."""


class PrunedError(Exception):
    """The pruner ended the trial."""


class Worker:
    """Asks for trials, trains them, and notes what came of them."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self.job = job
        self.stop = stop
        self.registry: Registry = discover()
        self.experiment = Experiment.model_validate(job.experiment, context={"registry": self.registry})
        self.study = study_of(self.experiment)
        self.searched = find_searched(self.experiment, self.registry)
        self.storage: RDBStorage = open_storage(job.storage)
        epochs = most_epochs(self.experiment, self.registry) * len(seeds_of(self.experiment))
        self.ledger: Ledger = load_ledger(self.storage, job.name, self.study, self.searched, epochs=epochs)
        self.ledger.since = job.since
        self.store: Store | None = store_of(job.tracked.uri, job.tracked.experiment_id) if job.tracked else None
        self.bench = Workbench()
        prepared = self.bench.prepare(self.experiment)  # the first trial's parts, before it is on the clock
        if prepared.dataset.digest != job.digest:
            raise DataError("the data has changed since the study began; put it back, or begin another study")

    def work(self) -> None:
        """Train trials until there are no more, or until stopped."""
        while not self.stop.is_set() and (trial := self.ledger.ask(deadline=self.job.deadline)) is not None:
            with beating(self.ledger, trial.number):
                self.train(trial)

    def train(self, trial: optuna.Trial) -> None:
        """Train one trial. Whatever happens to it is noted, in MLflow first."""
        log = self._open_log(trial)
        pruning = self.study.pruner != "none"

        def check() -> None:
            if self.stop.is_set():
                raise StoppedError

        def told(step: int, metrics: Mapping[str, float], objectives: Sequence[float]) -> None:
            check()
            if log:
                log.epoch(step, metrics, objectives)
            if pruning:
                trial.report(objectives[0], step)
                if trial.should_prune():
                    raise PrunedError

        values = values_of(trial.params, self.searched)
        try:
            outcome = train_trial(self.bench, self.experiment, values, self.registry, check=check, told=told)
        except StoppedError:
            if log:
                log.end("lost", "interrupted")
            self.ledger.lose(trial)
        except PrunedError:
            if log:
                log.end("pruned")
            self.ledger.prune(trial)
        except (StorageError, SQLAlchemyError, OptunaError):
            raise  # a disk or a database; the next trial would fare no better, and this one is taken up again
        except Exception as fault:  # a plugin, torch, or memory; the study goes on
            reason = str(fault) if isinstance(fault, TopworkError) else f"{type(fault).__name__}: {fault}"
            if log:
                log.end("failed", reason)
            self.ledger.fail(trial, reason)
        else:
            self._keep(trial, outcome, values, log)
            trial.set_user_attr("training_seconds", outcome.training_seconds)
            self.ledger.complete(trial, outcome.values)

    def _open_log(self, trial: optuna.Trial) -> TrialLog | None:
        if self.store is None or self.job.tracked is None:
            return None
        log = open_trial_log(
            self.store, self.job.tracked.run_id, self.job.name, trial.number, trial.params, self.job.digest
        )
        if log:
            trial.set_user_attr(RUN, log.run_id)
        return log

    def _keep(self, trial: optuna.Trial, outcome: Outcome, values: Mapping[str, Any], log: TrialLog | None) -> None:
        if outcome.judged:
            write_file(judged_file(self.job.folder, self.ledger.id, trial.number), outcome.judged.to_bytes())
        if log:
            varied = vary_trial(self.experiment, values, seeds_of(self.experiment)[0], self.registry)
            log.finish(outcome.values, outcome.judged, varied)


@contextmanager
def beating(ledger: Ledger, number: int) -> Iterator[None]:
    """Give signs of life for a trial while the block lasts."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with suppress(SQLAlchemyError, OptunaError):  # a passing fault; the next one may get through
                ledger.beat(number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stop_when(stop: threading.Event) -> Callable[[], None]:
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
    watch = stop_when(stop)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what they say of the experiment, its parent has said
    try:
        if not (job := sys.stdin.readline()):
            return  # the parent ended before there was anything to do
        worker = Worker(Job.model_validate_json(job), stop)
        if sys.stdin.readline():
            watch()
            worker.work()
    except TopworkError as fault:
        sys.stderr.write(f"{fault}\n")
        raise SystemExit(fault.exit_code) from None


if __name__ == "__main__":
    main()
