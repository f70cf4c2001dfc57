"""A trial trains what ``topwork train`` would train, and is evaluated as the study says."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from checkpoint_helpers import StopAt, StoppedError
from study_helpers import resolve_small
from topwork.engine.observer import Epoch
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints, StopRequest
from topwork.errors import ConfigurationError, TrainingError
from topwork.lab.runs import train
from topwork.lab.study.resolved_study import ResolvedStudy
from topwork.lab.study.trial import OnEpoch, TrialOutcome, train_trial

OBJECTIVE = "mean(sentiment/accuracy, category/accuracy)"


class Recorder:
    """Remembers what was reported of every epoch."""

    def __init__(self) -> None:
        self.told_again = 0
        self.steps: list[int] = []
        self.objectives: list[list[float]] = []

    def __call__(self, step: int, metrics: Mapping[str, float], objectives: Sequence[float], again: bool) -> None:
        self.told_again += again
        self.steps.append(step)
        self.objectives.append(list(objectives))


def run(study: ResolvedStudy, on_epoch: OnEpoch | None = None, **values: Any) -> TrialOutcome:
    """Train one trial; values are given by path, with __ for a dot."""
    by_path = {path.replace("__", "."): value for path, value in values.items()}
    return train_trial(PreparationCache(), study, by_path, check=lambda: None, on_epoch=on_epoch or Recorder())


def validation(epoch: Epoch) -> list[float]:
    return [epoch.metrics[f"validation/{task}/accuracy"] for task in ("sentiment", "category")]


@pytest.mark.slow
def test_a_trial_is_worth_what_the_same_training_is_worth() -> None:
    study = resolve_small(epochs=4)
    values = {"optimizer.heads_lr": 0.03, "optimizer.backbone_lr": 0.004}
    outcome = run(study, optimizer__heads_lr=0.03, optimizer__backbone_lr=0.004)
    result = train(resolve_small("tracking.enabled=false", epochs=4).trial_experiment(values, 0))
    best = next(epoch for epoch in result.epochs if epoch.number == result.best_epoch)
    assert outcome.values == [fmean(validation(best))]
    assert outcome.outputs is not None
    for task in ("sentiment", "category"):
        right = (outcome.outputs.outputs[task].argmax(1) == outcome.outputs.targets[task]).float().mean()
        if outcome.outputs.outputs[task].shape[1] > 1:  # a binary head has one output
            assert float(right) == pytest.approx(result.estimates[f"{task}/accuracy"].value)


@pytest.mark.slow
def test_several_seeds_are_evaluated_by_their_mean() -> None:
    recorder = Recorder()
    together = run(resolve_small(seeds=[3, 5]), recorder)
    each = [Recorder(), Recorder()]
    apart = [run(resolve_small(f"training.seed={seed}"), one) for seed, one in zip((3, 5), each, strict=True)]
    assert together.values == [fmean(one.values[0] for one in apart)]
    assert recorder.steps == [1, 2, 3, 4]
    assert recorder.objectives[:2] == each[0].objectives
    for so_far, alone in zip(recorder.objectives[2:], each[1].objectives, strict=True):
        assert so_far == [fmean([apart[0].values[0], alone[0]])]
    assert together.outputs is not None
    assert together.outputs.seeds == 2
    outputs = [one.outputs.outputs["category"] for one in apart if one.outputs]
    assert torch.equal(together.outputs.outputs["category"], torch.cat(outputs, dim=1))


@pytest.mark.slow
def test_a_step_means_the_same_in_trials_of_other_lengths() -> None:
    recorder = Recorder()
    run(resolve_small(seeds=[3, 5], search={"training.epochs": {"choices": [2, 4]}}), recorder)
    assert recorder.steps == [1, 2, 5, 6]


def test_training_with_other_values_leaves_the_choices_as_they_are() -> None:
    choices = [resolve_small().experiment.training.model_dump(exclude_unset=True), {"epochs": 3}]
    study = resolve_small(search={"training": {"choices": choices}}, seeds=[7])
    before = json.dumps(choices)
    run(study, training=choices[1])
    assert json.dumps(choices) == before


def test_the_last_epoch_counts_where_the_study_says_so() -> None:
    recorder = Recorder()
    outcome = run(resolve_small("training.patience=1", "training.epochs=6", epoch="last"), recorder)
    assert recorder.steps == [1, 2, 3, 4, 5, 6]
    assert outcome.values == recorder.objectives[-1]


def test_several_objectives_have_a_value_each() -> None:
    both = run(resolve_small(objective=["sentiment/accuracy", "category/loss"]))
    one = run(resolve_small(objective="category/loss"))
    assert len(both.values) == 2
    assert both.values[1:] == one.values


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(TrainingError, match="training diverged in epoch 1"):
        run(resolve_small(), optimizer__heads_lr=1e30)


def test_values_that_do_not_fit_together_say_so() -> None:
    study = resolve_small(
        search={"training.accumulation": {"choices": [1, 16]}, "training.batch_size": {"choices": [8, 16]}}
    )
    with pytest.raises(ConfigurationError, match=r"accumulation \(16\) must not exceed batch_size \(8\)"):
        run(study, training__accumulation=16, training__batch_size=8)


class EnoughError(Exception):
    pass


@pytest.mark.slow
def test_a_trial_can_be_stopped_between_two_batches_and_after_an_epoch() -> None:
    batches = 0

    def check() -> None:
        nonlocal batches
        batches += 1
        if batches == 7:
            raise EnoughError

    def on_epoch(*given: object) -> None:
        raise EnoughError

    cache = PreparationCache()
    with pytest.raises(EnoughError):
        train_trial(cache, resolve_small(), {}, check=check, on_epoch=Recorder())
    with pytest.raises(EnoughError):
        train_trial(cache, resolve_small(), {}, check=lambda: None, on_epoch=on_epoch)
    after = train_trial(cache, resolve_small(), {}, check=lambda: None, on_epoch=Recorder())
    assert after.values == run(resolve_small()).values  # neither left anything behind


@pytest.mark.slow
@pytest.mark.reliability("C41")
@pytest.mark.parametrize("moment", [2, 5, 9])
def test_a_trial_that_was_interrupted_goes_on_and_is_worth_the_same(tmp_path: Path, moment: int) -> None:
    study = resolve_small(epochs=2, seeds=[0, 1])
    whole, stopped, resumed = Recorder(), Recorder(), Recorder()
    values = {"optimizer.heads_lr": 0.03}
    train = partial(train_trial, PreparationCache(), study, values, check=lambda: None)
    outcome = train(on_epoch=whole)
    stop = StopAt(moment)

    def checkpoints(prepared: Preparation, request: StopRequest | None = None) -> Checkpoints:
        folder = CheckpointFolder(tmp_path / str(prepared.experiment.training.seed))
        return Checkpoints(folder, 1000.0, stop=request)

    with pytest.raises(StoppedError):
        train(on_epoch=stopped, get_checkpoints=partial(checkpoints, request=stop))
    again = train(on_epoch=resumed, get_checkpoints=checkpoints)
    assert again.values == outcome.values
    assert again.outputs is not None
    assert outcome.outputs is not None
    assert all(
        torch.equal(again.outputs.outputs[task], outcome.outputs.outputs[task]) for task in again.outputs.outputs
    )
    assert (resumed.steps, resumed.objectives) == (whole.steps, whole.objectives)
