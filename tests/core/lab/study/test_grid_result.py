"""Every comparison of variants is a table with the same columns, rows or none."""

from dataclasses import replace

from probe_helpers import result_of as probed
from transfer_helpers import result_of as transferred


def test_csv_has_a_line_for_each_row_below_the_columns() -> None:
    lines = probed().as_csv().splitlines()
    assert lines[0] == ",".join(probed().columns)
    assert len(lines) == 1 + len(probed().rows)


def test_without_rows_the_columns_are_left() -> None:
    assert transferred({}).as_csv().splitlines() == [",".join(transferred({}).columns)]
    assert replace(transferred({}), name="other").name == "other"
