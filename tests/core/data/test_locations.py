"""Rows know their file and line."""

from pathlib import Path

from topwork.data.locations import LocationsWriter
from topwork.data.row_values import PART


def test_rows_of_several_files_know_theirs() -> None:
    files, writer, listed = [Path("a.csv"), Path("b.csv")], LocationsWriter(), []
    for file in files:
        for line in range(2, PART + 9, 3):
            writer.append(file, line)
            listed.append(f"{file}:{line}")
    assert writer.count == len(listed)
    found = writer.finish()
    assert found == listed
    assert found.files == tuple(files)


def test_there_may_be_none() -> None:
    assert LocationsWriter().finish() == []
