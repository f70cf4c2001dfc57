"""Conduct a study: check it, encode once, let workers train its trials, and report."""

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.observer import Observer
from topwork.engine.reading import choose_store
from topwork.engine.training import make_accelerator
from topwork.engine.workbench import Workbench
from topwork.experiment.schema import Experiment
from topwork.experiment.search import find_searched, study_of
from topwork.lab.processes import terminable, undisturbed
from topwork.lab.study.checking import Checked, check, folder_of, url_of
from topwork.lab.study.crew import Crew
from topwork.lab.study.figures import draw
from topwork.lab.study.ledger import FAILURES, PARENT, Ledger, open_ledger
from topwork.lab.study.report import changes_of, find_best, find_own, judge, rank, summarize, write_experiment
from topwork.lab.study.result import FailedStudyError, Judgement, StudyObserver, StudyResult, Trial
from topwork.lab.study.storage import check_url, close, locked, open_storage, reported, shown
from topwork.lab.study.worker_job import Job, Tracked
from topwork.lab.tracking.store import Store, open_store, without_password, without_passwords
from topwork.lab.tracking.study_log import StudyLog, open_study_log
from topwork.registry import discover

#: Seconds between two looks at what the workers have done.
LOOK = 0.5


@dataclass(frozen=True)
class Begun:
    """A study that goes on: checked, with its workers, its trials, and its run in MLflow."""

    checked: Checked
    crew: Crew
    ledger: Ledger
    log: StudyLog | None
    started: float

    @property
    def deadline(self) -> float | None:
        """When no more trials may begin, in seconds since 1970."""
        timeout = self.checked.study.timeout
        return self.started + timeout if timeout else None

    @property
    def job(self) -> Job:
        """What the workers need to know."""
        log, checked = self.log, self.checked
        tracked = Tracked(uri=log.store.uri, experiment_id=log.store.experiment_id, run_id=log.run_id) if log else None
        return Job(
            experiment=checked.experiment.model_dump(mode="json", exclude_unset=True),
            name=checked.name,
            storage=url_of(checked.experiment),
            folder=checked.folder,
            tracked=tracked,
            digest=checked.digest,
            since=self.started,
            deadline=self.deadline,
        )


def study(experiment: Experiment, *, observer: StudyObserver | None = None) -> StudyResult:
    """Search the experiment's study section, or go on with a study that was interrupted.

    Args:
        observer: is told of progress.

    Raises:
        TopworkError: what is wrong, and what to do about it.
        FailedStudyError: trials failed one after another, or none is complete; it has what was found.
    """
    started = time.time()
    observer = observer or StudyObserver()
    registry, bench = discover(), Workbench()
    searched = find_searched(experiment, registry)
    url = url_of(experiment)
    check_url(url)
    with terminable(), reported(url), ExitStack() as at_the_end:
        section = study_of(experiment)
        crew = Crew(folder_of(experiment), min(section.workers, section.trials))
        at_the_end.callback(crew.dismiss)
        store = open_store(experiment) if experiment.tracking.enabled else None
        crew.hire()  # they import what they need while the study is checked and texts are encoded
        checked = check(experiment, registry, searched, bench)
        storage = open_storage(url)
        at_the_end.callback(close, storage)
        ledger = open_ledger(
            storage,
            checked.name,
            checked.study,
            searched,
            identity=checked.identity,
            rising=checked.rising,
            epochs=checked.epochs,
        )
        ledger.since = started
        ledger.take_up_failures()
        log = None
        if store:
            with store.undisturbed():
                log = _open_log(store, ledger, checked)
                at_the_end.push(partial(_close_log, log, ledger))
        begun = Begun(checked, crew, ledger, log, started)
        encoding_seconds = _train(begun, bench, observer)
        result = _report(begun, encoding_seconds)
    _complain(begun, result)
    return result


def _train(begun: Begun, bench: Workbench, observer: StudyObserver) -> float:
    """Encode what trials share, let workers train them, and leave all in order; return the seconds of encoding."""
    crew, ledger = begun.crew, begun.ledger
    crew.brief(begun.job)
    try:
        seconds = _encode_ahead(begun.checked, bench, observer)
        crew.start()
        _conduct(begun, observer)
    finally:
        crew.dismiss()
        with undisturbed():
            with locked(ledger.storage):
                ledger.sweep()
            if begun.log:
                begun.log.settle(ledger.states())
    return seconds


def _encode_ahead(checked: Checked, bench: Workbench, observer: Observer) -> float:
    """Encode what the store is to have, with all threads, before workers of one thread want it.

    Raises:
        StorageError: the store holds something else, or is required and cannot serve.
    """
    prepared = checked.prepared
    phase = prepared.plan.phases[0]
    device = make_accelerator(prepared.experiment.training).device
    prepared.model.to(device)
    if choose_store(prepared, phase, device=device).store is None:
        return 0.0  # nothing that workers could share
    _, reading = bench.read(prepared, phase, device=device, observer=observer)
    observer.read(reading)
    return reading.seconds


def _conduct(begun: Begun, observer: StudyObserver) -> None:
    """Let workers train until all trials are finished, or there is a reason to end.

    Raises:
        StudyError: workers break down one after another.
    """
    while True:
        with undisturbed():
            over = _look(begun, observer)
        if over:
            return
        time.sleep(LOOK)


def _look(begun: Begun, observer: StudyObserver) -> bool:
    """See what the workers have done, and that there are as many as are wanted; return whether all is over.

    Raises:
        StudyError: workers break down one after another.
    """
    crew, ledger, job = begun.crew, begun.ledger, begun.job
    trials, running = ledger.finished(), ledger.running()
    crew.note_progress(len(trials))
    observer.trials(rank(summarize(trials), begun.checked.rising), len(running), ledger.wanted)
    late = begun.deadline is not None and time.time() > begun.deadline and bool(trials or running)
    over = late or len(trials) >= ledger.wanted or ledger.failures_in_a_row(trials) >= FAILURES
    crew.replace(job, wanted=not over)
    if not crew.processes:
        if over and not running:
            return True
        with locked(ledger.storage):
            ledger.sweep()  # trials of other machines that went silent
        if len(trials) + len(ledger.running()) < ledger.wanted and not over:
            crew.fill_up(job)
    return False


def _open_log(store: Store, ledger: Ledger, checked: Checked) -> StudyLog:
    """Begin the study's MLflow run, or go on with it; of several parents one begins it."""
    with locked(ledger.storage):
        run_id = ledger.study.user_attrs.get(PARENT)
        log = open_study_log(store, run_id, checked.name, checked.digest)
        if log.run_id == run_id:
            log.settle(ledger.states())
            return log
        ledger.study.set_user_attr(PARENT, log.run_id)
    parameters = {f"search.{one.path}": one.dimension.describe() for one in checked.searched}
    settings = checked.study.model_dump(mode="json", exclude={"search", "storage", "name"})
    log.start(checked.experiment, parameters | {f"study.{name}": str(value) for name, value in settings.items()})
    return log


def _close_log(
    log: StudyLog, ledger: Ledger, kind: type[BaseException] | None, fault: BaseException | None, trace: object
) -> None:
    """End the study's run, whatever ended the study."""
    with undisturbed():
        whole = fault is None
        if fault is not None:
            with suppress(SQLAlchemyError, OptunaError):  # the database may be what ended it
                whole = len(ledger.finished()) >= ledger.wanted
        log.close("FINISHED" if whole else "KILLED")


def _report(begun: Begun, encoding_seconds: float) -> StudyResult:
    """Choose the best trials, write them down, measure them on the test rows, and draw."""
    checked, ledger, log = begun.checked, begun.ledger, begun.log
    trials = summarize(ledger.finished())
    by_number = {trial.number: trial for trial in trials}
    own, best = find_own(trials, checked.searched), find_best(trials, checked.rising)
    single = len(checked.rising) == 1
    files = {number: checked.folder / ("best.yaml" if single else f"best-{number}.yaml") for number in best}
    for path in set(checked.folder.glob("best-*.yaml")) - set(files.values()):
        path.unlink()  # of a Pareto front that is no more
    for number, path in files.items():
        write_experiment(path, by_number[number], checked)
    judgements, warnings = _judge(begun, trials, own=own, best=best)
    result = StudyResult(
        name=checked.name,
        folder=checked.folder,
        storage=shown(ledger.storage.url),
        objectives=tuple(checked.study.objectives),
        rising=tuple(checked.rising),
        trials=trials,
        own=own,
        best=best,
        changes={number: changes_of(by_number[number], checked) for number in best},
        files=files,
        judgements=judgements,
        run_id=log.run_id if log else None,
        tracking_uri=without_password(log.store.uri) if log else None,
        seconds=time.time() - begun.started,
        encoding_seconds=encoding_seconds,
        warnings=[*checked.prepared.warnings, *warnings],
    )
    if log:
        _log_result(log, ledger, checked, result)
    return result


def _judge(
    begun: Begun, trials: list[Trial], *, own: int | None, best: list[int]
) -> tuple[dict[int, Judgement], list[str]]:
    """Measure the best trials on the test rows; and say what went wrong on the way."""
    checked, log = begun.checked, begun.log
    said = begun.crew.said()
    warnings = [f"workers said:\n{said}"] if said else []
    if len(trials) < begun.ledger.wanted and begun.deadline is not None and time.time() > begun.deadline:
        warnings.append(f"ended by study.timeout after {len(trials)} of {begun.ledger.wanted} trials")
    if "test" not in checked.prepared.dataset.parts:
        return {}, [*warnings, "there are no test rows, so what the best values are worth on other texts is not known"]
    if own is None:
        warnings.append("no trial with the experiment's own values is complete, so what is gained is not known")
    wanted = [trial for trial in trials if trial.number in best or trial.number == own]
    judgements, missing = judge(wanted, own, checked, begun.ledger, log.store if log else None)
    return judgements, [*warnings, *missing]


def _log_result(log: StudyLog, ledger: Ledger, checked: Checked, result: StudyResult) -> None:
    """Log the outcome, with pictures."""
    figures, page = draw(ledger.study, checked.study.objectives, checked.searched, own=result.own, best=result.best)
    by_number = {trial.number: trial for trial in result.trials}
    single = len(result.objectives) == 1
    named = {"first": result.own, **{"best" if single else f"best_{number}": number for number in result.best}}
    log.finish(
        {name: by_number[number].values for name, number in named.items() if number is not None},
        {name: result.judgements[number].estimates for name, number in named.items() if number in result.judgements},
        len(result.trials),
    )
    pages = {"figures/study.html": page} if page else {}
    best = {path.name: path.read_text(encoding="utf-8") for path in result.files.values()}
    log.files(figures, pages | {name: without_passwords(text) for name, text in best.items()})


def _complain(begun: Begun, result: StudyResult) -> None:
    """Raise where the study did not come to its end.

    Raises:
        FailedStudyError: see ``study``.
    """
    failed = [trial for trial in result.trials if trial.state == "failed"]
    if begun.ledger.failures_in_a_row(begun.ledger.finished()) >= FAILURES:
        raise FailedStudyError(
            f"study {result.name} ended after {FAILURES} failed trials in a row; the last one: {_last_reason(failed)}\n"
            "mend that, then run the same command to go on",
            result,
        )
    if not result.best:
        reason = f"; the last that failed: {_last_reason(failed)}" if failed else ""
        raise FailedStudyError(f"no trial of study {result.name} is complete{reason}", result)


def _last_reason(failed: list[Trial]) -> str:
    return f"trial {failed[-1].number}: {failed[-1].reason}"
