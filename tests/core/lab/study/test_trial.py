"""A trial trains what ``topwork train`` would train, and is judged as the study says."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch

from study_helpers import make_study
from topwork.engine.observer import Epoch
from topwork.engine.preparation import prepare
from topwork.engine.workbench import Workbench
from topwork.errors import ConfigurationError, TrainingError
from topwork.experiment.schema import Experiment
from topwork.lab.runs import train
from topwork.lab.study.trial import Outcome, check_objectives, most_epochs, train_trial, vary_trial
from topwork.registry import discover

OBJECTIVE = "mean(sentiment/accuracy, category/accuracy)"


class Told:
    """Remembers what was told of every epoch."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.objectives: list[list[float]] = []

    def __call__(self, step: int, metrics: Mapping[str, float], objectives: Sequence[float]) -> None:
        self.steps.append(step)
        self.objectives.append(list(objectives))


def run(experiment: Experiment, told: Callable[..., None] | None = None, **values: Any) -> Outcome:
    """Train one trial; values are given by path, with __ for a dot."""
    by_path = {path.replace("__", "."): value for path, value in values.items()}
    told = told or Told()
    return train_trial(Workbench(), experiment, by_path, discover(), check=lambda: None, told=told)


def validation(epoch: Epoch) -> list[float]:
    return [epoch.metrics[f"validation/{task}/accuracy"] for task in ("sentiment", "category")]


def test_a_trial_is_worth_what_the_same_training_is_worth() -> None:
    study = make_study(epochs=4)
    values = {"optimizer.heads_lr": 0.03, "optimizer.backbone_lr": 0.004}
    outcome = run(study, optimizer__heads_lr=0.03, optimizer__backbone_lr=0.004)
    result = train(vary_trial(make_study("tracking.enabled=false", epochs=4), values, 0, discover()))
    best = next(epoch for epoch in result.epochs if epoch.number == result.best)
    assert outcome.values == [fmean(validation(best))]
    assert outcome.judged is not None
    for task in ("sentiment", "category"):
        right = (outcome.judged.outputs[task].argmax(1) == outcome.judged.targets[task]).float().mean()
        if outcome.judged.outputs[task].shape[1] > 1:  # a binary head has one output
            assert float(right) == pytest.approx(result.estimates[f"{task}/accuracy"].value)


def test_several_seeds_are_judged_by_their_mean() -> None:
    told = Told()
    together = run(make_study(seeds=[3, 5]), told)
    told_apart = [Told(), Told()]
    apart = [
        run(make_study(f"training.seed={seed}"), told_one) for seed, told_one in zip((3, 5), told_apart, strict=True)
    ]
    assert together.values == [fmean(one.values[0] for one in apart)]
    assert told.steps == [1, 2, 3, 4]
    assert told.objectives[:2] == told_apart[0].objectives
    for so_far, alone in zip(told.objectives[2:], told_apart[1].objectives, strict=True):
        assert so_far == [fmean([apart[0].values[0], alone[0]])]
    assert together.judged is not None
    assert together.judged.seeds == 2
    outputs = [one.judged.outputs["category"] for one in apart if one.judged]
    assert torch.equal(together.judged.outputs["category"], torch.cat(outputs, dim=1))


def test_a_step_means_the_same_in_trials_of_other_lengths() -> None:
    told = Told()
    run(make_study(seeds=[3, 5], search={"training.epochs": {"choices": [2, 4]}}), told)
    assert told.steps == [1, 2, 5, 6]


def test_training_with_other_values_leaves_the_choices_as_they_are() -> None:
    choices = [make_study().training.model_dump(exclude_unset=True), {"epochs": 3}]
    study = make_study(search={"training": {"choices": choices}}, seeds=[7])
    before = json.dumps(choices)
    run(study, training=choices[1])
    assert json.dumps(choices) == before


def test_the_most_epochs_are_found_in_sections_too() -> None:
    study = make_study(search={"training": {"choices": [{"epochs": 2}, {"epochs": 50}, {}]}})
    assert most_epochs(study, discover()) == 50


def test_the_last_epoch_counts_where_the_study_says_so() -> None:
    told = Told()
    outcome = run(make_study("training.patience=1", "training.epochs=6", epoch="last"), told)
    assert told.steps == [1, 2, 3, 4, 5, 6]
    assert outcome.values == told.objectives[-1]


def test_several_objectives_have_a_value_each() -> None:
    both = run(make_study(objective=["sentiment/accuracy", "category/loss"]))
    one = run(make_study(objective="category/loss"))
    assert len(both.values) == 2
    assert both.values[1:] == one.values


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(TrainingError, match="training diverged in epoch 1"):
        run(make_study(), optimizer__heads_lr=1e30)


def test_values_that_do_not_fit_together_say_so() -> None:
    study = make_study(
        search={"training.accumulation": {"choices": [1, 16]}, "training.batch_size": {"choices": [8, 16]}}
    )
    with pytest.raises(ConfigurationError, match=r"accumulation \(16\) must not exceed batch_size \(8\)"):
        run(study, training__accumulation=16, training__batch_size=8)


class EnoughError(Exception):
    pass


def test_a_trial_can_be_stopped_between_two_batches_and_after_an_epoch() -> None:
    batches = 0

    def check() -> None:
        nonlocal batches
        batches += 1
        if batches == 7:
            raise EnoughError

    def told(*given: object) -> None:
        raise EnoughError

    bench = Workbench()
    with pytest.raises(EnoughError):
        train_trial(bench, make_study(), {}, discover(), check=check, told=Told())
    with pytest.raises(EnoughError):
        train_trial(bench, make_study(), {}, discover(), check=lambda: None, told=told)
    after = train_trial(bench, make_study(), {}, discover(), check=lambda: None, told=Told())
    assert after.values == run(make_study()).values  # neither left anything behind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "mean(sentiment/accuracy, sentiment/f1)"},
            "study.objective: there is no metric 'sentiment/f1', only loss, sentiment/loss, category/loss, "
            "sentiment/accuracy, sentiment/macro_f1, category/accuracy, category/macro_f1; did you mean "
            "sentiment/macro_f1?",
        ),
        (
            {"objective": "mean(sentiment/accuracy, category/loss)"},
            "study.objective: the metrics of one objective must all rise or all fall, but in mean(sentiment/accuracy, "
            "category/loss) sentiment/accuracy should rise and category/loss should fall",
        ),
        (
            {"epoch": "best", "more": ["training.patience=null"]},
            "study.epoch: best epochs are kept by training.patience, which is null; set it, to training.epochs to "
            "train them all, or set study.epoch: last",
        ),
        (
            {"more": ["data.reviews.split={validation: 0.0, test: 0.2}", "training.monitor=training/loss"]},
            "study.objective: a study judges trials on validation rows, and there are none: set split.validation or a "
            "validation file",
        ),
    ],
)
def test_an_objective_that_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    study = make_study(*changes.pop("more", []), **changes)
    assert study.study is not None
    with pytest.raises(ConfigurationError) as caught:
        check_objectives(study.study, study, prepare(study))
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("objective", "rising"), [(OBJECTIVE, [True]), ("loss", [False]), (["loss", OBJECTIVE], [False, True])]
)
def test_the_direction_follows_from_the_metrics(objective: Any, rising: list[bool]) -> None:
    study = make_study(objective=objective)
    assert study.study is not None
    assert check_objectives(study.study, study, prepare(study)) == rising
