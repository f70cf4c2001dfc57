"""Carry out a training run, from an experiment to a model folder and an MLflow run."""

import logging
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import estimates, outputs_of
from topwork.engine.model.plan import Phase
from topwork.engine.model_folder import save_model
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.trained_model import TrainedModel
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import TrainingError
from topwork.experiment.schema import EVALUATED, Experiment, SplitName
from topwork.files import check_new_folder
from topwork.lab.processes import exit_on_sigterm
from topwork.lab.result import Result
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import open_store, redact_uri
from topwork.registry import Registry, discover

logger = logging.getLogger(__name__)


def train(experiment: Experiment, *, output: str | Path | None = None, observer: Observer | None = None) -> Result:
    """Train an experiment, track it in MLflow, and write the model to a folder.

    Args:
        output: the model's folder, which must not exist; ``models/<run name>`` where it is not given.
        observer: its methods are called while the run trains.

    Raises:
        TopworkError: what is wrong, and what to do about it. The MLflow run, if it began, is closed.
    """
    name = f"{experiment.name}-{secrets.token_hex(3)}"
    folder = Path(output) if output else Path("models") / name
    check_new_folder(folder)
    registry = discover()
    store = open_store(experiment.tracking, experiment.name) if experiment.tracking.enabled else None
    prepared = prepare(experiment)
    for warning in prepared.warnings:
        logger.warning(warning)
    with exit_on_sigterm(), log_run(store, name) if store else nullcontext() as log:
        if log:
            log.start(prepared, registry)
        return _run(prepared, name, folder, registry, observer or Observer(), log)


def _run(
    prepared: Preparation, name: str, folder: Path, registry: Registry, observer: Observer, log: RunLog | None
) -> Result:
    """Encode, train, evaluate, save."""
    model, settings = prepared.model, prepared.experiment.training
    accelerator = make_accelerator(settings)
    observers = Observers([observer, *([log] if log else [])])

    def load_examples(phase: Phase) -> dict[SplitName, Examples]:
        examples, report = prepared.load_examples(phase, accelerator.device, observers)
        observers.encoded(report)
        return examples

    try:
        fitted = prepared.fit(load_examples, accelerator=accelerator, observer=observers)
    except TrainingError as error:
        if not error.kept_epoch:
            raise
        save_model(folder, _trained_model(prepared), registry)
        raise TrainingError(f"{error}; they are in {folder}", kept_epoch=error.kept_epoch) from None
    split = next(one for one in EVALUATED if one in fitted.data)
    outputs = outputs_of(model, fitted.data[split], device=accelerator.device)
    evaluated = prepared.split_outputs(split, outputs)
    result = Result(
        name=name,
        folder=folder,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        split=evaluated.split,
        estimates=estimates(model.tasks, outputs, evaluated.targets),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        warnings=prepared.warnings,
    )
    save_model(folder, _trained_model(prepared), registry)
    if log:
        log.log_result(result)
        log.log_head_figures(model.tasks, evaluated)
        log.log_outputs(evaluated)
        if prepared.experiment.tracking.log_model:
            example = [text[:100] for text in prepared.dataset.splits["train"].texts[:2]]
            log.log_model(folder, example, registry, prepared.experiment)
    return result


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def begin(self, phase: str, total: int) -> None:
        for observer in self.observers:
            observer.begin(phase, total)

    def advance(self, done: int) -> None:
        for observer in self.observers:
            observer.advance(done)

    def encoded(self, report: EncodingReport) -> None:
        for observer in self.observers:
            observer.encoded(report)

    def epoch(self, epoch: Epoch) -> None:
        for observer in self.observers:
            observer.epoch(epoch)


def _trained_model(prepared: Preparation) -> TrainedModel:
    digests = {str(path): digest for path, digest in prepared.dataset.digests.items()}
    return TrainedModel(prepared.model.cpu(), prepared.dataset.labels, prepared.experiment.dump(), digests)
