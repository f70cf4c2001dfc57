"""Numbers and tables are printed for people."""

import pytest

from topwork.cli.tables import console, format_bytes, show_estimates, table
from topwork.engine.evaluation.estimates import Estimate


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (31_600_000, "31.6 MB"), (2.5e9, "2.5 GB"), (7e13, "70.0 TB")],
)
def test_a_number_of_bytes_has_the_unit_that_suits_it(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    made = table("name", "#value")
    assert [(column.header, column.justify) for column in made.columns] == [("name", "left"), ("value", "right")]


def test_estimates_are_listed_by_task_and_what_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    show_estimates(
        {"mood/accuracy": Estimate(0.5, 0.4, 0.6, 1200), "mood/auc": Estimate(nan, nan, nan, 1200)}, "test rows"
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["test", "rows"]
    assert ["mood", "accuracy", "0.500", "0.400", "to", "0.600", "1,200"] in lines
    assert ["mood", "auc", "undefined", "unknown", "1,200"] in lines


def test_what_goes_into_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.width == 10_000
    made = table(*(f"a-run-with-a-long-name-{number}" for number in range(12)))
    made.add_row(*("validation/sentiment/macro_f1" for _ in range(12)))
    console.print(made)
    assert len(capsys.readouterr().out.splitlines()) == 2
