"""One training run: encode, train, save, evaluate, log."""

import logging
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from topwork.data.texts import written
from topwork.engine.data_parallel import Processes, processes_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.evaluation.estimates import estimates
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase
from topwork.engine.model_folder import check_saved_model, holds_model, save_model
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation, check_drawing, check_saving
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.trained_model import TrainedModel
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoints import Checkpoints, StopRequest
from topwork.engine.training.loop import Fit
from topwork.errors import StorageError, TopworkError, TrainingError, describe, first_line, text_of
from topwork.experiment.schema import Experiment
from topwork.experiment.source import EVALUATED, SplitName
from topwork.lab.observers import Observers
from topwork.lab.parallel_run import announce_training
from topwork.lab.processes import StopSignals
from topwork.lab.result import Result, UnsavedError
from topwork.lab.run_folder import RunFolder, RunTraining
from topwork.lab.tracking.run_log import RunLog, log_run
from topwork.lab.tracking.store import TrackingStore, redact_uri
from topwork.registry import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Trains experiments that differ in little, and loads, tokenizes and encodes what they share once.

    Attributes:
        store: where runs are logged; None without tracking.
        observer: watches every run.
        run_folder: where trainings are written down, to go on if they are interrupted; None for nowhere.
        stop: says whether they are asked to stop.
    """

    registry: Registry
    store: TrackingStore | None
    observer: Observer
    run_folder: RunFolder | None = None
    stop: StopRequest = field(default_factory=StopSignals)
    cache: PreparationCache = field(default_factory=PreparationCache)

    def prepare(self, experiment: Experiment) -> Preparation:
        """Prepare an experiment, and check what is to be saved and drawn of it.

        Raises:
            TopworkError: whatever is wrong with data, plugins or settings, before anything is computed.
        """
        prepared = self.cache.prepare(experiment)
        backbone, seed = prepared.model.backbone, experiment.training.seed
        check_saving(experiment.backbone, experiment.freeze, backbone, seed=seed, origin=experiment.origin)
        check_drawing(prepared)
        return prepared

    def run_below(
        self, experiment: Experiment, title: str, run: str, name: str, folder: Path | None, log: RunLog | None
    ) -> tuple[Result, SplitOutputs]:
        """Carry out one of several trainings that differ in seed or tasks from one that was prepared and checked.

        Args:
            title: what it is, for the observer.
            run: the name of the run that they are of.
            name: of the training.
            log: of the run that this one is put below; None without tracking.
        """
        training = self.run_folder.training(name) if self.run_folder else None
        if training and training.has_finished(folder):
            self.observer.run(f"{title} was finished before")
            return training.load(folder, redact_uri(self.store.uri) if self.store else None)
        self.observer.run(title)
        prepared = self.cache.prepare(experiment)
        name = f"{run}-{name}"
        with log_run(self.store, name, below=log, training=training) if self.store else nullcontext() as child:
            if child:
                child.log_start(prepared, self.registry, brief=True)
            result, outputs = self.run(prepared, name, folder, child, training)
        if training:
            training.keep(result, outputs)
        return result, outputs

    def run(
        self,
        prepared: Preparation,
        name: str,
        folder: Path | None,
        log: RunLog | None,
        training: RunTraining | None = None,
    ) -> tuple[Result, SplitOutputs]:
        """Carry out a run of what was prepared last; return also the outputs for the rows that it is evaluated on.

        What fails after the training does not cost the model.

        Args:
            folder: for the model; None where it is not to be saved.
            training: where it is written down, and may go on from; None for nowhere.

        Raises:
            UnsavedError: the model could not be written to its folder; all else is done.
            TopworkError: what is wrong.
        """
        accelerator = make_accelerator(prepared.experiment.training)
        processes = processes_of(accelerator)
        announce_training(processes, prepared, training)
        observer = Observers([self.observer, *([log] if log else [])])
        fitted = self._fit(prepared, folder, accelerator, observer, training)
        split = next(one for one in EVALUATED if one in fitted.data)
        outputs = self._outputs(prepared, fitted.data[split], folder, processes, accelerator.device)
        # before metrics and figures, which may fail
        place, unsaved = _save(prepared, folder, self.registry) if folder else (None, "")
        differs = _how_saved_model_differs(prepared, place) if place else ""
        evaluated = prepared.split_outputs(split, outputs, fitted.data[split])
        measured = estimates(prepared.model.tasks, outputs, evaluated.targets)
        notes = [f"{name}: {estimate.note}" for name, estimate in measured.items() if estimate.note]
        notes += decoding_faults(prepared, outputs)
        for note in fitted.notes:
            logger.warning(note)
        result = Result(
            name=name,
            folder=place or folder or Path(),
            run_id=log.run_id or None if log else None,
            tracking_uri=redact_uri(log.store.uri) if log else None,
            split=evaluated.split,
            estimates=measured,
            epochs=fitted.epochs,
            best_epoch=fitted.best_epoch,
            best_epochs=fitted.best_epochs,
            metrics=fitted.metrics,
            warnings=[*prepared.warnings, *fitted.notes, *([differs] if differs else []), *notes],
        )
        if log:
            self._log(log, result, prepared, evaluated, place)
        if unsaved:
            raise UnsavedError(f"{unsaved}; {f'the model is in {place}' if place else 'the model is lost'}", result)
        return result, evaluated

    def _fit(
        self,
        prepared: Preparation,
        folder: Path | None,
        accelerator: Accelerator,
        observer: Observer,
        training: RunTraining | None,
    ) -> Fit:
        """Train, and save what is kept of a training that diverges."""
        minutes = prepared.experiment.training.checkpoint_minutes
        folder_of_checkpoints = training.checkpoints if training else None
        processes = processes_of(accelerator)
        checkpoints = Checkpoints(folder_of_checkpoints, minutes, stop=self.stop, processes=processes)

        def load_examples(phase: Phase) -> dict[SplitName, Examples]:
            examples, report = self.cache.load_examples(prepared, phase, accelerator.device, observer)
            observer.encoded(report)
            return examples

        try:
            return prepared.fit(load_examples, accelerator=accelerator, observer=observer, checkpoints=checkpoints)
        except TrainingError as error:
            if not error.kept_epoch or not folder:
                raise
            place, unsaved = _save(prepared, folder, self.registry)
            where = f"they are in {place}" if place else f"they cannot be saved: {unsaved}"
            raise TrainingError(f"{error}; {where}", kept_epoch=error.kept_epoch) from None

    def _outputs(
        self,
        prepared: Preparation,
        examples: Examples,
        folder: Path | None,
        processes: Processes,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Return the outputs (L, C) of each task for some examples; a model that fails there is saved."""
        try:
            return prepared.outputs(examples, device=device, processes=processes)
        except Exception:  # memory, or a head that fails on other rows
            if folder:
                place, _ = _save(prepared, folder, self.registry)
                logger.warning("the model was not measured; it is in %s", place)
            raise

    def _log(
        self, log: RunLog, result: Result, prepared: Preparation, evaluated: SplitOutputs, place: Path | None
    ) -> None:
        """Log what came of a run, and the model that is in ``place``."""
        log.log_result(result)
        log.log_head_figures(prepared.model.tasks, evaluated)
        log.log_outputs(evaluated)
        if place and prepared.experiment.tracking.log_model:
            texts = prepared.dataset.splits["train"].texts[:2]
            example = ["\t".join(part[:100] for part in written(text).split("\t")) for text in texts]
            log.log_model(place, example, self.registry, prepared.experiment)


def _save(prepared: Preparation, folder: Path, registry: Registry) -> tuple[Path | None, str]:
    """Write the model to its folder, or else to one for temporary files; return where it is, and what went wrong."""
    trained = _trained_model(prepared)
    if folder.exists() and holds_model(folder, trained):
        return folder, ""  # an earlier process of this run was ended after it had written it
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


def decoding_faults(prepared: Preparation, outputs: Mapping[str, torch.Tensor]) -> list[str]:
    """Say, and log, what goes wrong where outputs for the evaluated rows are decoded; mostly nothing."""
    faults = []
    reads = {name: task.head.reads for name, task in prepared.experiment.trained_tasks.items()}
    for task in (task for task in outputs if reads[task] != "words"):  # words are decoded by texts of one length
        try:
            prepared.model.tasks[task].decode(outputs[task])
        except TopworkError as error:
            faults.append(f"the model cannot predict: {text_of(error)}")
            logger.warning(faults[-1])
    return faults


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


def _trained_model(prepared: Preparation) -> TrainedModel:
    """Return the model with the tasks that were trained, and what of the experiment is about them."""
    model, tasks = prepared.model.cpu(), prepared.experiment.trained_tasks
    reads = {name: task.head.reads for name, task in tasks.items()}
    if reads != model.reads:  # texts were encoded for other tasks too
        mixed_stages = model.prefix.mixed_stages
        model = MultiTaskModel(model.backbone, model.pooling, model.tasks, reads, mixed_stages=mixed_stages)
    return TrainedModel(
        model=model,
        labels={task: prepared.dataset.labels[task] for task in tasks},
        experiment=prepared.experiment.dump_trained(),
        digests={str(path): digest for path, digest in prepared.dataset.digests.items()},
    )
