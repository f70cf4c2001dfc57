"""An objective is a metric or a function of some; what cannot be read, or does not exist, is refused with its place."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.experiment.objective import FUNCTIONS, Objective, greater_is_better, parse_objective

METRICS = {"a/accuracy": 0.5, "b/macro_f1": 0.9, "c/recall": 0.1, "loss": 2.0, "a/word error": 0.25}
RISING = {"a/accuracy": True, "b/macro_f1": True, "c/recall": True, "loss": False, "a/word error": False}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a/accuracy", 0.5),
        ("  loss ", 2.0),
        ("mean(a/accuracy, b/macro_f1)", 0.7),
        ("mean( a/accuracy,b/macro_f1 , c/recall )", 0.5),
        ("min(a/accuracy, b/macro_f1)", 0.5),
        ("max(a/accuracy, b/macro_f1)", 0.9),
        ("min(a/accuracy)", 0.5),
        ("mean(a/accuracy, max(b/macro_f1, c/recall))", 0.7),
        ("max(a/word error, loss)", 2.0),
    ],
)
def test_an_objective_is_worth_what_it_says(text: str, value: float) -> None:
    assert parse_objective(text).evaluate(METRICS) == pytest.approx(value)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_objective_of_something_that_is_not_a_number_is_none_itself(function: str, place: int) -> None:
    values = [0.1, 0.2, 0.3]
    values[place] = math.nan
    assert math.isnan(parse_objective(f"{function}(x, y, z)").evaluate(dict(zip("xyz", values, strict=True))))


NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}/[a-z0-9_]{1,8}( [a-z]{1,4})?", fullmatch=True)
OBJECTIVES = st.recursive(
    NAMES.map(Objective),
    lambda inner: st.builds(
        Objective, st.sampled_from(sorted(FUNCTIONS)), st.lists(inner, min_size=1, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


@given(OBJECTIVES)
def test_an_objective_is_read_as_it_is_written(objective: Objective) -> None:
    assert parse_objective(str(objective)) == objective


@given(st.text(alphabet="ab/ (),", max_size=12))
def test_whatever_is_written_is_read_or_refused_with_a_reason(text: str) -> None:
    try:
        objective = parse_objective(text)
    except ValueError as error:
        assert str(error).startswith(f"{text!r} is not an objective: ")
    else:
        assert parse_objective(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it ends where a metric or a function should be"),
        ("mean()", "found ')' where a metric or a function should be"),
        ("mean(a, )", "found ')' where a metric or a function should be"),
        ("mean(, a)", "found ',' where a metric or a function should be"),
        ("(a)", "found '(' where a metric or a function should be"),
        ("mean(a", "a ) is missing"),
        ("mean(a,", "it ends where a metric or a function should be"),
        ("mean(a (b))", "there is no function 'a', only mean, min, max"),
        ("mean(min(a) b)", "found 'b' where , or ) should be"),
        ("mean(a))", "')' stands after its end"),
        ("a, b", "',' stands after its end"),
        ("maen(a, b)", "there is no function 'maen', only mean, min, max; did you mean mean?"),
        ("avg(a, b)", "there is no function 'avg', only mean, min, max"),
    ],
)
def test_what_is_not_an_objective_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_objective(text)
    assert str(caught.value) == (
        f"{text!r} is not an objective: {reason}; write a metric, or a function of some, such as mean(one, another)"
    )


@pytest.mark.parametrize(
    ("text", "rises"),
    [("a/accuracy", True), ("loss", False), ("mean(a/accuracy, b/macro_f1)", True), ("max(loss, a/word error)", False)],
)
def test_the_metrics_say_which_way_is_better(text: str, rises: bool) -> None:
    assert greater_is_better(parse_objective(text), RISING) is rises


def test_metrics_that_should_rise_and_fall_make_no_objective() -> None:
    with pytest.raises(ValueError) as caught:
        greater_is_better(parse_objective("mean(a/accuracy, loss)"), RISING)
    assert str(caught.value) == (
        "the metrics of one objective must all rise or all fall, but in mean(a/accuracy, loss) "
        "a/accuracy should rise and loss should fall"
    )


def test_all_metrics_that_do_not_exist_are_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        greater_is_better(parse_objective("mean(a/acuracy, b/macro_f1, min(x, x), validation/loss)"), RISING)
    assert str(caught.value).splitlines() == [
        f"there is no metric 'a/acuracy', only {', '.join(RISING)}; did you mean a/accuracy?",
        f"there is no metric 'x', only {', '.join(RISING)}",
        f"there is no metric 'validation/loss', only {', '.join(RISING)}; did you mean loss?",
    ]


def test_the_mean_is_the_mean() -> None:
    values = {"x": 0.1, "y": 0.2, "z": 0.6}
    assert parse_objective("mean(x, y, z)").evaluate(values) == statistics.fmean(values.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mean(" * 5000, "it has 25,000 characters, and may have at most 10,000"),
        ("mean(" * 1000, "functions stand inside each other more than 20 deep"),
        ("x" * 9000 + "(", f"there is no function '{'x' * 57}...', only mean, min, max"),
        ("mean(" + "a," * 4000 + ")", "found ')' where a metric or a function should be"),
    ],
    ids=["long", "deep", "long name", "many"],
)
def test_what_is_too_long_or_too_deep_is_refused_in_short(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_objective(text)
    assert f" is not an objective: {reason}; write a metric" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_metric_that_does_not_exist_is_compared_with_some_of_many() -> None:
    directions = {f"task_{number}/accuracy": True for number in range(1000)}
    with pytest.raises(ValueError) as caught:
        greater_is_better(Objective("task_7/acuracy"), directions)
    assert "only task_0/accuracy, task_1/accuracy, " in str(caught.value)
    assert str(caught.value).endswith("... and 980 more; did you mean task_7/accuracy?")
