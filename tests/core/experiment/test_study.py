"""A study section says what to search; what makes no sense, or cannot be searched, is refused."""

from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from topwork.experiment.study import MAX_GRID_VALUES, Dimension, StudySettings

UNFAIR = "cannot be searched: trials must learn the same tasks from the same rows; for seeds, set study.seeds"


def make(search: dict[str, Any], **settings: Any) -> StudySettings:
    return StudySettings.model_validate({"search": search, "objective": "loss", **settings})


def errors(search: dict[str, Any], **settings: Any) -> dict[str, str]:
    """What is wrong with a study section, by dotted path."""
    with pytest.raises(ValidationError) as caught:
        make(search, **settings)
    return {".".join(map(str, e["loc"])): e["msg"].removeprefix("Value error, ") for e in caught.value.errors()}


def test_what_is_not_said_has_a_default() -> None:
    study = make({"a.b": {"low": 1, "high": 2}})
    assert (study.trials, study.workers, study.sampler, study.pruner) == (30, 2, "tpe", "none")
    assert (study.launcher, study.slurm) == ("local", None)
    assert (study.timeout, study.seeds, study.epoch, study.storage, study.name) == (None, None, None, None, None)


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"low": 2, "high": 1}, "low must be below high, got 2 and 1"),
        ({"low": 1}, "give low and high, or choices"),
        ({"low": 1, "choices": [1]}, "give either low and high, or choices"),
        ({"low": 0, "high": 1, "log": True}, "log goes with a low above 0 and without step"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "log goes with a low above 0 and without step"),
        ({"low": 0, "high": 1, "step": 0}, "step must be above 0, got 0"),
        ({"low": 0, "high": 1, "step": 0.3}, "high must be some steps above low, but 1 is not"),
        ({"low": -1e308, "high": 1e308, "step": 1}, "high must be some steps above low, but 1e+308 is not"),
        ({"low": 0, "high": 1, "step": 5e-324}, "high must be some steps above low, but 1 is not"),
        ({"choices": [1, 1]}, "choices must differ, got [1, 1]"),
        ({"choices": [1.0, float("inf")]}, "choices must be finite, got [1.0, inf]"),
        ({"choices": [[{"a": float("nan")}]]}, "choices must be finite, got [[{'a': nan}]]"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(dimension: dict[str, Any], message: str) -> None:
    assert errors({"a.b": dimension}) == {"search.a.b": message}


@pytest.mark.parametrize("value", ["yes", True, float("nan"), float("inf"), [1]], ids=repr)
@pytest.mark.parametrize("name", ["low", "high", "step"])
def test_a_bound_is_a_finite_number(name: str, value: object) -> None:
    dimension = {"low": 0, "high": 2, "step": 1} | {name: value}
    assert errors({"a.b": dimension}) == {f"search.a.b.{name}": f"this must be a finite number, got {value!r}"}


def test_what_jobs_ask_for_goes_with_the_launcher_that_submits_them() -> None:
    study = make({"a.b": {"low": 1, "high": 2}}, launcher="slurm", slurm={"hours": 1.5, "gpus": 1})
    assert study.slurm is not None
    assert (study.slurm.partition, study.slurm.hours, study.slurm.memory) == (None, 1.5, None)
    assert (study.slurm.cpus, study.slurm.gpus) == (1, 1)
    assert errors({"a.b": {"low": 1, "high": 2}}, slurm={"gpus": 1}) == {
        "": "the section slurm goes with launcher: slurm, and launcher is local"
    }


def test_whole_numbers_stay_whole() -> None:
    dimension = Dimension(low=1, high=3)
    assert (type(dimension.low), type(dimension.high)) == (int, int)


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "study.trials",
        "data",
        "data.reviews.limit",
        "tracking.uri",
        "training.seed",
        "tasks",
        "tasks.a",
        "tasks.a.label",
        "tasks.a.labels",
        "tasks.a.labels.casefold",
        "tasks.a.source",
    ],
)
def test_what_decides_rows_tasks_or_luck_cannot_be_searched(path: str) -> None:
    assert errors({path: {"choices": [1, 2]}}) == {"search": f"{path} {UNFAIR}"}


@pytest.mark.parametrize("path", ["names", "training.seeds", "tasks.a.loss_weight", "tasks.label.head", "pooling"])
def test_other_settings_can_be_searched(path: str) -> None:
    assert make({path: {"choices": [1, 2]}}).search.keys() == {path}


def test_what_cannot_be_searched_cannot_be_in_a_section_either() -> None:
    sections = [{"epochs": 20}, {"epochs": 3, "seed": 3}]
    assert errors({"training": {"choices": sections}}) == {"search": f"training.seed {UNFAIR}"}


def test_a_setting_is_searched_once_only() -> None:
    one, other = {"choices": [1, 2]}, {"low": 1, "high": 2}
    assert errors({"a.b": one, "a": one, "ab.c": other}) == {
        "search": "a setting can be searched once only, but a.b lies inside a"
    }


@pytest.mark.parametrize("objective", [3, None, [], ["loss", 3], {"a": 1}], ids=repr)
def test_an_objective_is_text_or_a_list_of_texts(objective: object) -> None:
    assert errors({"a.b": {"choices": [1]}}, objective=objective) == {
        "objective": f"this must be an objective, such as sentiment/accuracy, or a list of some, got {objective!r}"
    }


def test_an_objective_that_cannot_be_read_is_refused() -> None:
    (message,) = errors({"a.b": {"choices": [1]}}, objective=["loss", "maen(a, b)"]).values()
    assert message.startswith("'maen(a, b)' is not an objective: there is no function 'maen'")


def test_objectives_differ() -> None:
    assert errors({"a.b": {"choices": [1]}}, objective=["x", "x"]) == {"objective": "objectives must differ, got x, x"}


def test_one_objective_is_a_list_of_one_too() -> None:
    assert make({"a.b": {"choices": [1]}}, objective="x").objectives == ["x"]
    assert make({"a.b": {"choices": [1]}}, objective=["x", "y"]).objectives == ["x", "y"]


def test_a_pruner_compares_by_one_objective() -> None:
    assert errors({"a.b": {"choices": [1]}}, objective=["x", "y"], pruner="median") == {
        "": "pruner median compares trials by one objective; remove it, or combine the objectives"
    }


def test_seeds_differ() -> None:
    assert errors({"a.b": {"choices": [1]}}, seeds=[1, 2, 1]) == {"seeds": "seeds must differ, got 1, 2, 1"}


def test_a_grid_needs_values_that_can_be_counted() -> None:
    search = {"a": {"low": 1, "high": 2}, "b": {"choices": [1]}, "c": {"low": 1, "high": 2, "log": True}}
    assert errors(search, sampler="grid") == {"": "a grid needs choices or a step, but a, c has neither"}
    assert make(search, sampler="random").sampler == "random"


def test_a_grid_of_more_values_than_can_be_kept_is_refused() -> None:
    search = {"a": {"low": 0, "high": 1, "step": 1e-5}, "b": {"low": 0, "high": 99_999, "step": 1}}
    assert errors(search, sampler="grid") == {
        "": "a grid has at most 100,000 values of one setting, but a has 100,001; set a larger step, or another sampler"
    }
    assert make(search, sampler="random").search["a"].count == MAX_GRID_VALUES + 1
    assert make({"b": search["b"]}, sampler="grid").search["b"].count == MAX_GRID_VALUES


@pytest.mark.parametrize(
    ("dimension", "count", "extremes", "words"),
    [
        (Dimension(low=1, high=2), None, [1, 2], "1 to 2"),
        (Dimension(low=1e-4, high=1e-2, log=True), None, [1e-4, 1e-2], "0.0001 to 0.01, logarithmic"),
        (Dimension(low=5, high=25, step=5), 5, [5, 25], "5 to 25 in steps of 5"),
        (Dimension(low=0.1, high=0.4, step=0.1), 4, [0.1, 0.4], "0.1 to 0.4 in steps of 0.1"),
        (Dimension(choices=["cls", None, [1]]), 3, ["cls", None, [1]], "choices cls, None, [1]"),
    ],
    ids=["range", "logarithmic range", "steps", "broken steps", "choices"],
)
def test_values_are_counted_and_put_into_words(
    dimension: Dimension, count: int | None, extremes: list[Any], words: str
) -> None:
    assert (dimension.count, dimension.extremes, dimension.describe()) == (count, extremes, words)


@given(st.integers(-5, 5), st.integers(1, 7), st.integers(1, 9), st.integers(-10, 80))
def test_a_range_with_steps_holds_its_steps_only(low: int, step: int, steps: int, value: int) -> None:
    dimension = Dimension(low=low / 10, high=(low + step * steps) / 10, step=step / 10)
    assert dimension.holds(value / 10) == (value in range(low, low + step * steps + 1, step))
    assert dimension.count == steps + 1


def test_many_choices_and_paths_are_checked_at_once() -> None:
    started = perf_counter()
    assert make({"a.b": {"choices": list(range(40_000))}}).search["a.b"].count == 40_000
    assert errors({"a.b": {"choices": [*range(40_000), 7]}})["search.a.b"].startswith(
        "choices must differ, got [0, 1, "
    )
    paths = {f"a{number}.b": {"low": 1, "high": 2} for number in range(5_000)}
    assert len(make(paths).search) == 5_000
    assert perf_counter() - started < 5


@pytest.mark.parametrize("choices", [[1, 1.0], [[1], [1]], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]], ids=repr)
def test_equal_choices_are_refused_whatever_they_are(choices: list[Any]) -> None:
    assert errors({"a.b": {"choices": choices}}) == {"search.a.b": f"choices must differ, got {choices}"}
