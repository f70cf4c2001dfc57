"""Conduct a study: check it, encode once, let workers train its trials, and report."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from topwork.engine.observer import Observer
from topwork.engine.preparation import Prepared
from topwork.engine.reading import choose_store
from topwork.engine.training import make_accelerator
from topwork.engine.workbench import Workbench
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import Searched, find_searched, study_of, vary
from topwork.experiment.study import Study
from topwork.lab.runs import terminable
from topwork.lab.study.crew import Crew
from topwork.lab.study.figures import draw
from topwork.lab.study.ledger import FAILURES, PARENT, Ledger, counts, is_lost, open_ledger
from topwork.lab.study.report import STATES, changes_of, find_best, find_own, judge, rank, summarize, write_experiment
from topwork.lab.study.result import FailedStudyError, Judgement, StudyObserver, StudyResult, Trial
from topwork.lab.study.storage import close, locked, open_storage, reported, shown
from topwork.lab.study.trial import check_objectives, seeds_of, vary_trial
from topwork.lab.study.worker_job import Job, Tracked
from topwork.lab.tracking.run_log import flatten
from topwork.lab.tracking.store import Store, open_store, without_password
from topwork.lab.tracking.study_log import StudyLog, open_study_log
from topwork.registry import Registry, discover

#: Seconds between two looks at what the workers have done.
LOOK = 0.5

#: Settings without a bearing on results, or that stand in the identity otherwise.
NO_IDENTITY = ("name", "tracking.", "training.store", "training.seed")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """A study that has been checked against schema, plugins, model and rows."""

    experiment: Experiment
    study: Study
    name: str
    registry: Registry
    searched: list[Searched]
    prepared: Prepared
    rising: list[bool]

    @property
    def digest(self) -> str:
        """The sha256 of the data's files."""
        return " ".join(self.prepared.dataset.digests.values())

    @property
    def epochs(self) -> int:
        """Of a trial, all seeds together."""
        return self.experiment.training.epochs * len(seeds_of(self.experiment))


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
    registry = discover()
    settings = study_of(experiment)
    searched = find_searched(experiment, registry)
    name = settings.name or experiment.name
    folder = Path("studies").resolve() / name
    bench = Workbench()
    url = settings.storage or f"sqlite:///{folder / 'study.db'}"
    with terminable(), reported(url), ExitStack() as at_the_end, ExitStack() as closing:
        crew = Crew(folder, settings.workers)
        at_the_end.callback(crew.dismiss)
        store = open_store(experiment) if experiment.tracking.enabled else None
        crew.hire()  # they import what they need while the study is checked and texts are encoded
        checked = check(experiment, settings, name, registry, searched, bench)
        storage = open_storage(url)
        at_the_end.callback(close, storage)
        ledger = open_ledger(
            storage,
            name,
            settings,
            searched,
            identity=identity_of(checked),
            rising=checked.rising,
            epochs=checked.epochs,
        )
        ledger.since = started
        log = _open_log(store, ledger, checked) if store else None
        if log:
            closing.callback(log.close, "KILLED")
        job = _job(checked, folder, url, ledger, log, started)
        crew.brief(job)
        try:
            encoding_seconds = encode_ahead(checked, bench, observer)
            crew.start()
            _conduct(crew, ledger, checked, job, observer)
        finally:
            crew.dismiss()
            with locked(ledger.storage):
                ledger.sweep()
            if log:
                log.settle(states_of(ledger))
        result = _report(checked, folder, url, ledger, log, started, encoding_seconds, crew)
        if log:
            closing.pop_all()
            log.close("FINISHED")
        _complain(ledger, result)
    return result


def check(
    experiment: Experiment,
    settings: Study,
    name: str,
    registry: Registry,
    searched: Sequence[Searched],
    bench: Workbench,
) -> Checked:
    """Resolve the plan with every bound and choice, one by one, and find the objectives.

    Raises:
        TopworkError: something does not fit.
    """
    faults: list[str] = []
    for one in searched:
        dimension = one.dimension
        for value in [dimension.low, dimension.high] if dimension.choices is None else dimension.choices:
            try:
                bench.prepare(vary(experiment, {one.path: value}, registry))
            except ConfigurationError as fault:
                where = experiment.origin.locate("study", "search", one.path)
                faults += [f"{where}: {value}: {line}" for line in str(fault).splitlines()]
    prepared = bench.prepare(vary_trial(experiment, {}, seeds_of(experiment)[0], registry))
    try:
        rising = check_objectives(settings, experiment, prepared)
    except ConfigurationError as fault:
        faults.append(str(fault))
    if faults:
        raise ConfigurationError("\n".join(dict.fromkeys(faults)))
    return Checked(experiment, settings, name, registry, list(searched), prepared, rising)


def identity_of(checked: Checked) -> dict[str, str]:
    """What must not change while a study goes on, in words."""
    study = checked.study
    identity = {f"search of {one.path}": _in_words(one) for one in checked.searched}
    identity |= {"objective": "; ".join(study.objectives), "epoch": study.epoch or "as trained"}
    identity |= {"seeds": ", ".join(map(str, seeds_of(checked.experiment))), "sha256 of the data": checked.digest}
    settings = flatten(checked.experiment.dump())
    files = tuple(f"data.{checked.experiment.source[0]}.{field}" for field in ("path", "train", "validation", "test"))
    return identity | {
        path: str(value) for path, value in settings.items() if not path.startswith(NO_IDENTITY) and path not in files
    }


def encode_ahead(checked: Checked, bench: Workbench, observer: Observer) -> float:
    """Encode what the store is to have, with all threads, before workers of one thread want it; return the seconds."""
    prepared = checked.prepared
    phase = prepared.plan.phases[0]
    device = make_accelerator(prepared.experiment.training).device
    prepared.model.to(device)
    if choose_store(prepared, phase, device=device).store is None:
        return 0.0  # nothing that workers could share
    _, reading = bench.read(prepared, phase, device=device, observer=observer)
    observer.read(reading)
    return reading.seconds


def states_of(ledger: Ledger) -> dict[int, str]:
    """The state of every trial by number: complete, pruned, failed, lost or running."""
    states: dict[int, str] = {trial.number: "running" for trial in ledger.running()}
    for trial in ledger.trials():
        if counts(trial):
            states[trial.number] = STATES[trial.state]
        elif is_lost(trial):
            states[trial.number] = "lost"
    return states


def _conduct(crew: Crew, ledger: Ledger, checked: Checked, job: Job, observer: StudyObserver) -> None:
    """Let workers train until all trials are finished, or there is a reason to end."""
    finished = -1
    while True:
        trials = ledger.finished()
        if len(trials) != finished:
            finished, crew.broken = len(trials), 0
        running = ledger.running()
        observer.trials(rank(summarize(trials), checked.rising), len(running), ledger.wanted)
        late = job.deadline is not None and time.time() > job.deadline
        over = late or finished >= ledger.wanted or ledger.failures_in_a_row(trials) >= FAILURES
        crew.replace(job, wanted=not over)
        if not crew.processes:
            if over and not running:
                return
            with locked(ledger.storage):
                ledger.sweep()  # trials of other machines that went silent
            if finished + len(ledger.running()) < ledger.wanted and not over:
                crew.hire()
                crew.brief(job)
                crew.start()
        time.sleep(LOOK)


def _job(checked: Checked, folder: Path, url: str, ledger: Ledger, log: StudyLog | None, started: float) -> Job:
    timeout = checked.study.timeout
    return Job(
        experiment=checked.experiment.model_dump(mode="json", exclude_unset=True),
        name=checked.name,
        storage=url,
        folder=folder,
        tracked=Tracked(uri=log.store.uri, experiment_id=log.store.experiment_id, run_id=log.run_id) if log else None,
        digest=checked.digest,
        since=ledger.since,
        deadline=started + timeout if timeout else None,
    )


def _open_log(store: Store, ledger: Ledger, checked: Checked) -> StudyLog:
    """Begin the study's MLflow run, or go on with it; of several parents one begins it."""
    with locked(ledger.storage):
        run_id = ledger.study.user_attrs.get(PARENT)
        log = open_study_log(store, run_id, checked.name, checked.digest)
        if log.run_id == run_id:
            log.settle(states_of(ledger))
            return log
        ledger.study.set_user_attr(PARENT, log.run_id)
    parameters = {f"search.{one.path}": _in_words(one) for one in checked.searched}
    settings = checked.study.model_dump(mode="json", exclude={"search", "storage", "name"})
    log.start(checked.experiment, parameters | {f"study.{name}": str(value) for name, value in settings.items()})
    return log


def _report(
    checked: Checked,
    folder: Path,
    url: str,
    ledger: Ledger,
    log: StudyLog | None,
    started: float,
    encoding_seconds: float,
    crew: Crew,
) -> StudyResult:
    """Choose the best trials, write them down, measure them on the test rows, and draw."""
    experiment, searched, registry = checked.experiment, checked.searched, checked.registry
    trials = summarize(ledger.finished())
    own, best = find_own(trials, searched), find_best(trials, checked.rising)
    by_number = {trial.number: trial for trial in trials}
    files = {number: folder / ("best.yaml" if len(checked.rising) == 1 else f"best-{number}.yaml") for number in best}
    for number, path in files.items():
        write_experiment(path, checked.name, by_number[number], experiment, searched, registry)
    judgements: dict[int, Judgement] = {}
    warnings = list(checked.prepared.warnings)
    if "test" in checked.prepared.dataset.parts:
        judgements, missing = judge(best, own, checked.prepared.model.tasks, folder, ledger, log.store if log else None)
        warnings += missing
    else:
        warnings.append("there are no test rows, so what the best values are worth on other texts is not known")
    if said := crew.said():
        warnings.append(f"workers said:\n{said}")
    if log:
        figures, page = draw(ledger.study, checked.study.objectives, searched, own=own, best=best)
        named = {"first": own, **{"best" if len(best) == 1 else f"best_{number}": number for number in best}}
        log.finish(
            {name: by_number[number].values for name, number in named.items() if number is not None},
            {name: judgements[number].estimates for name, number in named.items() if number in judgements},
            len(trials),
        )
        pages = {"figures/study.html": page} if page else {}
        log.files(figures, pages | {path.name: path.read_text(encoding="utf-8") for path in files.values()})
    return StudyResult(
        name=checked.name,
        folder=folder,
        storage=shown(url),
        objectives=tuple(checked.study.objectives),
        rising=tuple(checked.rising),
        trials=trials,
        own=own,
        best=best,
        changes={number: changes_of(by_number[number], experiment, searched, registry) for number in best},
        files=files,
        judgements=judgements,
        run_id=log.run_id if log else None,
        tracking_uri=without_password(log.store.uri) if log else None,
        seconds=time.time() - started,
        encoding_seconds=encoding_seconds,
        warnings=warnings,
    )


def _complain(ledger: Ledger, result: StudyResult) -> None:
    """Raise where the study did not come to its end.

    Raises:
        FailedStudyError: see ``study``.
    """
    failed = [trial for trial in result.trials if trial.state == "failed"]
    if ledger.failures_in_a_row(ledger.finished()) >= FAILURES:
        raise FailedStudyError(
            f"study {result.name} ended after {FAILURES} failed trials in a row; the last one: {_last_reason(failed)}\n"
            "mend that, then run the same command to go on",
            result,
        )
    if not result.best and failed:
        raise FailedStudyError(
            f"no trial of study {result.name} is complete; the last that failed: {_last_reason(failed)}", result
        )


def _last_reason(failed: Sequence[Trial]) -> str:
    return f"trial {failed[-1].number}: {failed[-1].reason}"


def _in_words(searched: Searched) -> str:
    return searched.dimension.describe() + (", logarithmic" if searched.dimension.log else "")
