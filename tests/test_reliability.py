"""docs/reliability.md has every fault with the tests that make it happen."""

import pytest

from reliability import FAULTS, PAGE, REASONS, marked_tests, page

ROWS = [row for rows in FAULTS.values() for row in rows]


def test_the_page_is_what_the_marks_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/helpers/reliability.py"


@pytest.mark.parametrize("row", ROWS)
def test_every_fault_has_a_test_or_a_reason(row: str) -> None:
    assert bool(marked_tests().get(row)) != (row in REASONS)


def test_no_test_is_marked_with_a_fault_that_is_not_on_the_page() -> None:
    assert marked_tests().keys() <= set(ROWS)
