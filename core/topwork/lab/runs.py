"""Carry out a training run, from an experiment to a model folder and an MLflow run."""

import logging
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from sklearn.metrics import confusion_matrix

from topwork.engine.comparison import put_together
from topwork.engine.evaluation import Rows, estimates, outputs_of
from topwork.engine.observer import Epoch, Observer, Reading
from topwork.engine.plan import Phase
from topwork.engine.preparation import Prepared, prepare
from topwork.engine.reading import read_rows
from topwork.engine.trained_model import TrainedModel, save_model
from topwork.engine.training import fit, make_accelerator
from topwork.errors import TrainingError
from topwork.experiment.schema import Experiment, SplitName
from topwork.files import check_new_folder
from topwork.lab.processes import terminable
from topwork.lab.result import Result
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import open_store, without_password
from topwork.registry import Registry, discover

logger = logging.getLogger(__name__)


def train(experiment: Experiment, *, output: str | Path | None = None, observer: Observer | None = None) -> Result:
    """Train an experiment, track it in MLflow, and write the model to a folder.

    Args:
        output: the model's folder, which must not exist; ``models/<run name>`` where it is not given.
        observer: is told of progress.

    Raises:
        TopworkError: what is wrong, and what to do about it. The MLflow run, if it began, is closed.
    """
    name = f"{experiment.name}-{secrets.token_hex(3)}"
    folder = Path(output) if output else Path("models") / name
    check_new_folder(folder)
    registry = discover()
    store = open_store(experiment) if experiment.tracking.enabled else None
    prepared = prepare(experiment)
    for warning in prepared.warnings:
        logger.warning(warning)
    with terminable(), log_run(store, name) if store else nullcontext() as log:
        if log:
            log.start(prepared, registry)
        return carry_out(prepared, name, folder, registry, observer or Observer(), log)


def carry_out(
    prepared: Prepared, name: str, folder: Path, registry: Registry, observer: Observer, log: RunLog | None
) -> Result:
    """Encode, train, evaluate, save."""
    experiment, model = prepared.experiment, prepared.model
    accelerator = make_accelerator(experiment.training)
    watching = Observers([observer, *([log] if log else [])])

    def read(phase: Phase) -> dict[SplitName, Rows]:
        rows, reading = read_rows(prepared, phase, device=accelerator.device, observer=watching)
        watching.read(reading)
        return rows

    try:
        outcome = fit(model, prepared.plan, read, experiment, accelerator=accelerator, observer=watching)
    except TrainingError as fault:
        if not fault.kept_epoch:
            raise
        save_model(folder, _finished(prepared), registry)
        raise TrainingError(f"{fault}; they are in {folder}", kept_epoch=fault.kept_epoch) from None
    splits: tuple[SplitName, ...] = ("test", "validation", "train")
    split = next(name for name in splits if name in outcome.data)
    rows = outcome.data[split]
    outputs = outputs_of(model, rows, device=accelerator.device)
    result = Result(
        name=name,
        folder=folder,
        run_id=log.run_id if log else None,
        tracking_uri=without_password(log.store.uri) if log else None,
        split="training" if split == "train" else split,
        estimates=estimates(model.tasks, outputs, rows.targets),
        confusion=_confusion(prepared, outputs, rows),
        epochs=outcome.epochs,
        best=outcome.best,
        warnings=prepared.warnings,
    )
    save_model(folder, _finished(prepared), registry)
    if log:
        log.finish(result)
        log.judged(put_together(prepared, split, outputs, rows))
        if experiment.tracking.log_model:
            example = [text[:100] for text in prepared.dataset.parts["train"].texts[:2]]
            log.model(folder, example, registry, experiment)
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

    def read(self, reading: Reading) -> None:
        for observer in self.observers:
            observer.read(reading)

    def epoch(self, epoch: Epoch) -> None:
        for observer in self.observers:
            observer.epoch(epoch)


def _finished(prepared: Prepared) -> TrainedModel:
    digests = {str(path): digest for path, digest in prepared.dataset.digests.items()}
    return TrainedModel(prepared.model.cpu(), prepared.dataset.labels, prepared.experiment.dump(), digests)


def _confusion(
    prepared: Prepared, outputs: dict[str, torch.Tensor], rows: Rows
) -> dict[str, tuple[tuple[str, ...], list[list[int]]]]:
    """Count true against predicted classes, task by task."""
    counts = {}
    for task, head in prepared.model.tasks.items():
        names = prepared.dataset.labels[task].names
        true = [names[number] for number in rows.targets[task]]
        counts[task] = (names, confusion_matrix(true, head.decode(outputs[task]).labels, labels=names).tolist())
    return counts
