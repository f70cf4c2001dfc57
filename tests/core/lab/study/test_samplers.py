"""What samplers suggest, and what pruners end."""

import itertools
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from queue_helpers import GRID_BASELINE, OpenQueue, by_number, die, finish_all, finish_in_processes, settings
from topwork.experiment.study import Dimension
from topwork.lab.study.samplers import make_pruner, make_sampler
from topwork.lab.study.trial_states import PROCESS, is_interrupted

RANGE = FloatDistribution(0.0, 1.0)

POINTS = [{"depth": depth, "pooling": pooling} for depth in (0, 2, 4) for pooling in ("cls", "mean")]


def as_points(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(tuple(point.values()) for point in found)


def study_of(sampler: str, *, trials: int = 12, seed: int = 7) -> optuna.Study:
    """A study in memory, past the random beginning of samplers that learn; the best is at 0.5."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make_sampler(settings(sampler=sampler), seed))
    for number in range(trials):
        x = number / trials
        study.add_trial(create_trial(params={"x": x}, distributions={"x": RANGE}, value=abs(x - 0.5)))
    return study


def suggested(study: optuna.Study) -> float:
    return float(study.ask({"x": RANGE}).params["x"])


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_one_seed_suggests_one_value_and_another_seed_another(sampler: str) -> None:
    first, again, other = (suggested(study_of(sampler, seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_that_learn_come_near_the_best(sampler: str) -> None:
    distances = [abs(suggested(study_of(sampler, seed=seed)) - 0.5) for seed in range(8)]
    assert sum(distances) / len(distances) < 0.15  # at random it would be 0.25


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_is_being_trained_is_not_suggested_again(sampler: str) -> None:
    study = study_of(sampler)
    running = suggested(study)
    study.sampler = make_sampler(settings(sampler=sampler), 7)
    assert suggested(study) != running


def test_tpe_keeps_away_from_where_many_are_being_trained() -> None:
    study = study_of("tpe")
    for _ in range(20):
        study.add_trial(create_trial(state=TrialState.RUNNING, params={"x": 0.5}, distributions={"x": RANGE}))
    assert abs(suggested(study) - 0.5) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "grid"])
def test_nothing_is_suggested_twice_however_often_a_study_goes_on(open_queue: OpenQueue, sampler: str) -> None:
    rates = {"heads_lr": Dimension(low=0.0, high=1.0, step=0.1), "backbone_lr": Dimension(choices=[1, 2, 3])}
    changed = {"dimensions": rates, "baseline": {"heads_lr": 0.1, "backbone_lr": 2}} if sampler == "grid" else {}
    trained: list[dict[str, Any]] = []
    for trials in (4, 8, 13):  # those that learn do so from the eleventh on
        trained += finish_all(open_queue(trials=trials, sampler=sampler, **changed))
    assert len(set(as_points(trained))) == len(trained) == 13


def test_a_grid_is_tried_whole_and_once_beginning_with_the_baseline(open_grid: OpenQueue) -> None:
    trained = finish_all(open_grid(trials=3))
    trained += finish_all(open_grid())
    assert open_grid().n_trials == 6
    assert trained[0] == GRID_BASELINE
    assert as_points(trained) == as_points(POINTS)
    assert open_grid().ask() is None


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_every_sampler_tries_all_combinations_once_where_there_are_few(open_grid: OpenQueue, sampler: str) -> None:
    trained = finish_all(open_grid(sampler=sampler, trials=4))
    trained += finish_all(open_grid(sampler=sampler, trials=12))
    assert trained[0] == GRID_BASELINE
    assert as_points(trained) == as_points(POINTS)
    queue = open_grid(sampler=sampler, trials=12)
    assert (queue.n_trials, len(queue.finished()), queue.ask()) == (6, 6, None)
    assert set(queue.states().values()) == {"complete"}


def test_what_is_being_trained_is_not_begun_again(open_grid: OpenQueue) -> None:
    queues = [open_grid(sampler="random", trials=12) for _ in range(3)]
    trials = [queue.ask() for queue, _ in zip(itertools.cycle(queues), POINTS, strict=False)]
    assert as_points([trial.params for trial in trials if trial]) == as_points(POINTS)


def test_several_who_ask_at_once_try_a_grid_whole_and_once(open_grid: OpenQueue) -> None:
    queues = [open_grid() for _ in range(3)]
    trials = [(queue, queue.ask()) for queue, _ in zip(itertools.cycle(queues), POINTS, strict=False)]
    assert as_points([trial.params for _, trial in trials if trial]) == as_points(POINTS)
    assert [queue.ask() for queue in queues] == [None] * 3
    for queue, trial in trials:
        assert trial is not None
        queue.complete(trial, [1.0])
    assert len(open_grid().finished()) == 6


@pytest.mark.slow
def test_several_processes_try_a_grid_whole_and_once(open_grid: OpenQueue, url: str) -> None:
    queue = open_grid()
    finish_in_processes(url, "grid", 100, processes=2)
    assert as_points([trial.params for trial in queue.finished()]) == as_points(POINTS)
    assert len(queue.trials()) == 6
    assert len({trial.user_attrs[PROCESS] for trial in queue.trials()}) == 2


def test_a_grid_is_tried_whole_and_once_also_when_it_is_interrupted(open_grid: OpenQueue) -> None:
    queue = open_grid()
    trials = [queue.ask() for _ in range(4)]
    finished, interrupted, dead, running = (trial for trial in trials if trial is not None)
    queue.complete(finished, [1.0])
    queue.mark_interrupted(interrupted)
    die(dead)
    again = open_grid()
    trained = finish_all(again)
    assert trained[:2] == [interrupted.params, dead.params]
    assert as_points([*trained, finished.params, running.params]) == as_points(POINTS)


@pytest.mark.parametrize("given", ["no value", "the first value", "all values"])
def test_who_dies_while_asking_for_a_point_of_a_grid_loses_nothing(open_grid: OpenQueue, given: str) -> None:
    queue = open_grid()
    first = queue.ask()
    assert first is not None
    queue.complete(first, [1.0])
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        trial = queue.study.ask()
    if given != "no value":
        trial.suggest_int("depth", 0, 4, step=2)
    if given == "all values":
        trial.suggest_categorical("pooling", ["cls", "mean"])
    trained = finish_all(open_grid())
    assert as_points([*trained, first.params]) == as_points(POINTS)
    assert is_interrupted(by_number(queue, trial.number))
    assert trained[0] == by_number(queue, trial.number).params


def test_a_grid_of_fractions_has_the_values_that_one_would_write(open_queue: OpenQueue) -> None:
    fractions = {"dropout": Dimension(low=0.1, high=0.7, step=0.1)}
    queue = open_queue(dimensions=fractions, baseline={"dropout": 0.3}, sampler="grid", trials=100)
    assert queue.n_trials == 7
    trained = finish_all(queue)
    assert sorted(point["dropout"] for point in trained) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_grid_is_not_tried_in_the_order_in_which_it_is_written(open_queue: OpenQueue) -> None:
    numbers = {"depth": Dimension(low=0, high=30, step=1)}
    queue = open_queue(dimensions=numbers, baseline={"depth": 0}, sampler="grid", trials=10)
    assert (depths := [point["depth"] for point in finish_all(queue)]) != sorted(depths)


def report(study: optuna.Study, step: int, value: float) -> bool:
    """Begin a trial with a value at a step, and say whether it is to be pruned."""
    trial = study.ask()
    trial.report(value, step)
    pruned = trial.should_prune()
    study.tell(trial, value)
    return pruned


def pruned_of(pruner: str, values: list[float], *, epochs: int = 4, step: int = 2) -> list[bool]:
    study = optuna.create_study(study_name="pair", pruner=make_pruner(settings(pruner=pruner), epochs))
    return [report(study, step, value) for value in values]


def test_without_a_pruner_nothing_is_pruned() -> None:
    assert pruned_of("none", [1.0] * 6 + [100.0]) == [False] * 7


def test_the_median_prunes_what_is_worse_than_half_of_five_trials() -> None:
    assert pruned_of("median", [1.0, 2.0, 3.0, 4.0, 5.0, 2.9, 3.1]) == [False] * 6 + [True]


def test_hyperband_prunes_before_the_last_epoch() -> None:
    assert any(pruned_of("hyperband", [float(number) for number in range(40)], epochs=9, step=1))
