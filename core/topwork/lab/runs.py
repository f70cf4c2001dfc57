"""Carry out a training run, from an experiment to a model folder and an MLflow run."""

import logging
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from topwork.data.texts import written
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import estimates
from topwork.engine.model.plan import Phase
from topwork.engine.model_folder import check_saved_model, save_model
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.trained_model import TrainedModel
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import StorageError, TrainingError, describe, first_line
from topwork.experiment.schema import Experiment
from topwork.experiment.source import EVALUATED, SplitName
from topwork.files import check_room, reserved
from topwork.lab.processes import exit_on_sigterm
from topwork.lab.result import Result, UnsavedError
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import open_store, redact_uri
from topwork.registry import Registry, discover

logger = logging.getLogger(__name__)


def train(experiment: Experiment, *, output: str | Path | None = None, observer: Observer | None = None) -> Result:
    """Train an experiment, track it in MLflow, and write the model to a folder.

    Args:
        output: the model's folder, which must not exist; a new one in ``models`` where it is not given.
        observer: its methods are called while the run trains.

    Raises:
        UnsavedError: the run came to its end, but its model could not be written to its folder; has the result.
        TopworkError: what is wrong, and what to do about it. The MLflow run, if it began, is closed.
    """
    unique = f"{experiment.name}-{secrets.token_hex(3)}"
    name = os.environ.get("MLFLOW_RUN_NAME") or unique
    folder = Path(output) if output else Path("models") / unique
    with exit_on_sigterm(), reserved(folder):
        registry = discover()
        store = open_store(experiment.tracking, experiment.name) if experiment.tracking.enabled else None
        prepared = prepare(experiment)
        check_room(folder, sum(weight.nbytes for weight in prepared.model.state_dict().values()))
        for warning in prepared.warnings:
            logger.warning(warning)
        with log_run(store, name) if store else nullcontext() as log:
            if log:
                log.start(prepared, registry)
            return _run(prepared, name, folder, registry, observer or Observer(), log)


def _run(
    prepared: Preparation, name: str, folder: Path, registry: Registry, observer: Observer, log: RunLog | None
) -> Result:
    """Encode, train, save, evaluate: what fails after the training does not cost the model."""
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
        place, unsaved = _save(prepared, folder, registry)
        where = f"they are in {place}" if place else f"they cannot be saved: {unsaved}"
        raise TrainingError(f"{error}; {where}", kept_epoch=error.kept_epoch) from None
    split = next(one for one in EVALUATED if one in fitted.data)
    try:
        outputs = prepared.outputs(fitted.data[split], device=accelerator.device)
    except Exception:  # memory, or a head that fails on other rows
        place, _ = _save(prepared, folder, registry)
        logger.warning("the model was not measured; it is in %s", place)
        raise
    place, unsaved = _save(prepared, folder, registry)  # before metrics and figures, which may fail
    differs = _how_saved_model_differs(prepared, place) if place else ""
    evaluated = prepared.split_outputs(split, outputs, fitted.data[split])
    measured = estimates(model.tasks, outputs, evaluated.targets)
    notes = [f"{name}: {estimate.note}" for name, estimate in measured.items() if estimate.note]
    result = Result(
        name=name,
        folder=place or folder,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        split=evaluated.split,
        estimates=measured,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        warnings=[*prepared.warnings, *([differs] if differs else []), *notes],
    )
    if log:
        log.log_result(result)
        log.log_head_figures(model.tasks, evaluated)
        log.log_outputs(evaluated)
        if place and prepared.experiment.tracking.log_model:
            texts = prepared.dataset.splits["train"].texts[:2]
            example = ["\t".join(part[:100] for part in written(text).split("\t")) for text in texts]
            log.log_model(place, example, registry, prepared.experiment)
    if unsaved:
        raise UnsavedError(f"{unsaved}; {f'the model is in {place}' if place else 'the model is lost'}", result)
    return result


def _save(prepared: Preparation, folder: Path, registry: Registry) -> tuple[Path | None, str]:
    """Write the model to its folder, or else to one for temporary files; return where it is, and what went wrong."""
    trained = _trained_model(prepared)
    unsaved: list[str] = []
    for place in (folder, Path(tempfile.gettempdir()) / f"topwork-{secrets.token_hex(4)}"):
        try:
            save_model(place, trained, registry)
        except StorageError as error:
            unsaved.append(str(error))
        except Exception as error:  # a backbone saves with its own library, which raises what it likes
            unsaved.append(f"{place} could not be written: {describe(error)}")
        else:
            return place, "\n".join(unsaved)
    return None, "\n".join(unsaved)


def _how_saved_model_differs(prepared: Preparation, folder: Path) -> str:
    """Load the model that was saved, and say and log what it gives otherwise than the trained one; mostly nothing."""
    sample = [written(text).split("\t")[0][:200] for text in prepared.dataset.splits["train"].texts[:4]]
    try:
        check_saved_model(folder, _trained_model(prepared), sample)
    except Exception as error:  # memory, or what only fails where a model is loaded
        differs = first_line(error)
        logger.warning(differs)
        return differs
    return ""


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
