"""What a reader gives is a plain value."""

from topwork.data.rows import FileRows, RowError


def test_an_error_is_of_one_row_unless_it_ends_the_file() -> None:
    assert not RowError("no text").ends_file
    assert RowError("no text") == RowError("no text", ends_file=False)


def test_of_most_files_there_is_nothing_to_say() -> None:
    assert FileRows(iter([])).notes == ()
