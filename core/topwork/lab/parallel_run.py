"""A run in several processes: the main one carries it out, and the others compute their share of each training."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from topwork.engine.data_parallel import Processes, processes_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.model.plan import Phase
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment, Training
from topwork.experiment.search import with_overrides
from topwork.experiment.source import EVALUATED, SplitName
from topwork.lab.processes import StopSignals, exit_on_sigterm
from topwork.lab.result import Result, SeedsResult
from topwork.lab.run_folder import RunTraining
from topwork.registry import discover
from topwork.torchrun import process_here

AnyResult = TypeVar("AnyResult", Result, SeedsResult)


def join_processes(settings: Training) -> Processes:
    """Wait for the other processes that torchrun started; return this one alone where it started none."""
    return processes_of(make_accelerator(settings)) if process_here()[0] > 1 else Processes()


def announce_training(processes: Processes, prepared: Preparation, training: RunTraining | None) -> None:
    """Tell the other processes what they are to train next.

    Args:
        training: where it is written down; None for nowhere.
    """
    settings = prepared.experiment.training
    processes.told_by_main(
        {
            "training": {"seed": settings.seed, "tasks": settings.tasks, "seeds": None},
            "checkpoints": str(training.checkpoints.path.resolve()) if training else None,
            "digests": _digests(prepared),
        }
    )


def announce_result(processes: Processes, result: AnyResult) -> AnyResult:
    """Tell the other processes that the run has come to its end, and what it gave; return that."""
    if processes.count > 1:
        processes.told_by_main({"result": json.loads(json.dumps(asdict(result), default=str))})
    return result


def take_part(experiment: Experiment, processes: Processes) -> Any:
    """Compute this process's share of all trainings of a run; return the result that the main process has.

    Raises:
        ConfigurationError: this process has read something else than the main one.
        LostProcessError: the main process ended before the run did.
        TopworkError: as in the main process.
    """
    cache, seeds = PreparationCache(), experiment.training.seeds
    with exit_on_sigterm(), silent():
        # while the main process does so too
        cache.prepare(_varied(experiment, {"seeds": None, "seed": seeds[0] if seeds else experiment.training.seed}))
        while "result" not in (told := processes.told_by_main(None)):
            prepared = cache.prepare(_varied(experiment, told["training"]))
            if _digests(prepared) != told["digests"]:
                raise ConfigurationError(
                    f"process {processes.number} has read other rows or plans another training than the main process; "
                    "see that all processes read the same files, and that the same packages are installed for all"
                )
            _train(prepared, cache, told["checkpoints"])
    return TypeAdapter(Result if seeds is None else SeedsResult).validate_python(told["result"])


def _train(prepared: Preparation, cache: PreparationCache, checkpoints: str | None) -> None:
    """Compute this process's share of a training, and of the outputs by which it is evaluated."""
    settings = prepared.experiment.training
    accelerator, observer = make_accelerator(settings), Observer()
    processes = processes_of(accelerator)
    folder = CheckpointFolder(Path(checkpoints)) if checkpoints else None

    def load_examples(phase: Phase) -> dict[SplitName, Examples]:
        return cache.load_examples(prepared, phase, accelerator.device, observer)[0]

    fitted = prepared.fit(
        load_examples,
        accelerator=accelerator,
        observer=observer,
        checkpoints=Checkpoints(folder, settings.checkpoint_minutes, stop=StopSignals(), processes=processes),
    )
    split = next(one for one in EVALUATED if one in fitted.data)
    prepared.outputs(fitted.data[split], device=accelerator.device, processes=processes)


def _varied(experiment: Experiment, settings: dict[str, Any]) -> Experiment:
    """Return the experiment with other settings of its training."""
    changes = {f"training.{name}": value for name, value in settings.items()}
    return with_overrides(experiment, changes, discover(experiment.plugins))


def _digests(prepared: Preparation) -> list[str]:
    """What must be the same in all processes."""
    return [prepared.plan.digest, prepared.dataset.digest]


@contextmanager
def silent() -> Iterator[None]:
    """Log nothing within the block: the main process says it."""
    loggers = [logging.getLogger(name) for name in ("topwork", "topwork_plugins")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
