"""Read a source and check every row."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from topwork.data.files import decompress, find_files, format_suffix, join_digests, read_file
from topwork.data.hub import read_from_hub
from topwork.data.label_reader import LabelReader, RowLabel, heads_for
from topwork.data.labels import NO_NUMBER, MissingLabelError
from topwork.data.readers import read
from topwork.data.rows import Row, RowError
from topwork.data.texts import Text, Words, read_text, read_words
from topwork.errors import DataError, fit_screen
from topwork.experiment.label_format import AS_WRITTEN, LabelColumns
from topwork.experiment.source import Source
from topwork.interfaces.labels import Classes, LabelSpace, Numbers

#: How many faulty rows a message names; it always gives the total.
SHOWN = 20


@dataclass
class Table:
    """N rows.

    Attributes:
        texts: the text of each.
        labels: the label of each, by task; None where it may lack one and does.
        spaces: what the labels of a task were read as.
        renamed: the labels of a task that were given other names.
        strata: of each, the value of the column that a stratified split goes by; empty for other splits.
        locations: ``file:line`` of each.
        digest: sha256 of the file's bytes, in hexadecimal; of several files, that of their digests in a row.
        warnings: what the researcher should know about how the file was read, with counts.
    """

    texts: list[Text] = field(default_factory=list)
    labels: dict[str, list[RowLabel | None]] = field(default_factory=dict)
    spaces: dict[str, type[LabelSpace]] = field(default_factory=dict)
    renamed: dict[str, set[str]] = field(default_factory=dict, compare=False)
    strata: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    digest: str = ""
    warnings: list[str] = field(default_factory=list)


def read_table(path: Path, source: Source, columns: Mapping[str, LabelColumns], *, by: str | None = None) -> Table:
    """Read the text and the labels of every row of a file, or of all files that a pattern names.

    Args:
        columns: the label columns of each task.
        by: the column of the strata of a stratified split.

    Raises:
        DataError: the file cannot be read, or rows are faulty and not to be skipped: the first 20 are named, and the
            total.
    """
    of_labels = [name for one in columns.values() for name in one.names]
    wanted = list(dict.fromkeys([*source.text_columns, *of_labels, *([by] if by else [])]))
    table = Table(labels={task: [] for task in columns})
    builder = _TableBuilder(table, source, columns, by)
    faults, notes, digests = _Faults(), list[str](), list[str]()
    for file in [path] if source.hub else find_files(path):
        content = read_from_hub(source.hub, path.stem) if source.hub else read_file(file)
        digests.append(hashlib.sha256(content).hexdigest())
        found = read(file, decompress(file, content), source, wanted=wanted)
        notes += found.notes
        _add_rows(builder, file, islice(found.rows, source.limit), wanted, faults)
        if faults.whole_file:
            break
    table.digest = join_digests(digests)
    skippable = bool(table.texts) and not faults.whole_file
    if faults.problems and not (skippable and source.on_faulty_rows == "skip"):
        hints = ["to leave out faulty rows, set `on_faulty_rows: skip` of the source"] if skippable else []
        hints += [f"where rows may lack a label, set tasks.{task}.missing: skip" for task in sorted(builder.lacking)]
        if any(NO_NUMBER in problem for problem in faults.problems):
            numeric = [task for task, reader in builder.readers.items() if reader.space is Numbers]
            classes = heads_for(Classes)
            hints += [f"head {columns[task].head} of task {task} takes numbers; classes: {classes}" for task in numeric]
        raise DataError("\n".join([*summarize(faults.problems), *hints]))
    if not table.texts:
        none = "none of its rows has a label" if builder.unlabelled else "the file holds no rows"
        raise DataError(f"{path}: {none}")
    table.spaces = {task: space for task, reader in builder.readers.items() if (space := reader.space)}
    table.renamed = {task: reader.renamed for task, reader in builder.readers.items()}
    table.warnings += [
        *notes,
        *faults.describe(path),
        *builder.describe_changes(),
        *builder.describe_unlabelled(path),
    ]
    return table


@dataclass
class _Faults:
    """What is wrong with rows.

    Attributes:
        problems: with their locations.
        rows: how many rows have any.
        total: how many rows there are.
        whole_file: whether something is wrong with all rows that follow, so that they were not looked at.
    """

    problems: list[str] = field(default_factory=list)
    rows: int = 0
    total: int = 0
    whole_file: bool = False

    def describe(self, path: Path) -> Iterator[str]:
        """Say which rows were skipped."""
        if self.problems:
            head = f"{path}: {self.rows:,} of {self.total:,} rows are faulty and were skipped:"
            yield fit_screen("\n  ".join([head, *summarize(self.problems)]))


def _add_rows(
    builder: "_TableBuilder",
    path: Path,
    rows: Iterable[tuple[int, Row | RowError]],
    wanted: Sequence[str],
    faults: _Faults,
) -> None:
    """Add the good rows to a table, and what is wrong with the others to the faults."""
    for line, row in rows:
        location = f"{path}:{line}"
        if isinstance(row, RowError):
            errors, faults.whole_file = [row.message], row.ends_file
        else:
            own_columns = format_suffix(path) in (".jsonl", ".conllu")
            errors = builder.add(row, location, optional=own_columns)
            # where columns have one place in all rows, one that is missing is missing in each; once is enough
            faults.whole_file = not own_columns and any(name not in row for name in wanted)
        faults.problems += [f"{location}: {error}" for error in errors]
        faults.rows += bool(errors)
        faults.total += 1
        if faults.whole_file:
            break


class _TableBuilder:
    """Checks rows and adds the good ones to a table."""

    def __init__(self, table: Table, source: Source, columns: Mapping[str, LabelColumns], by: str | None) -> None:
        self.table = table
        self.source = source
        self.columns = columns
        self.readers = {task: LabelReader(task, of_task) for task, of_task in columns.items()}
        self.stratum = LabelReader("", LabelColumns((by,), AS_WRITTEN)) if by else None
        self.lacking: set[str] = set()  # tasks of which a row lacks a label that must have one
        self.unlabelled: list[str] = []  # where the rows are that have no label at all

    def add(self, row: Row, location: str, *, optional: bool) -> list[str]:
        """Add a row, or return all that is wrong with it.

        Args:
            optional: whether a row without label columns is one without a label.
        """
        errors: list[str] = []
        text: Text = ""
        try:
            words = self.source.words
            text = read_words(row, words) if words else read_text(row, self.source.text_columns)
        except ValueError as error:
            errors += str(error).splitlines()
        labels: dict[str, RowLabel | None] = {}
        for task, reader in self.readers.items():
            try:
                count = len(text.words) if isinstance(text, Words) else None
                labels[task] = reader.read(row, words=count, optional=optional)
            except MissingLabelError as error:
                labels[task] = None
                if self.columns[task].missing == "error":
                    errors.append(str(error))
                    self.lacking.add(task)
            except ValueError as error:
                errors += str(error).splitlines()
        stratum: RowLabel | None = None
        try:
            stratum = self.stratum.read(row) if self.stratum else None
        except ValueError as error:
            errors += str(error).splitlines()
        if errors:
            return list(dict.fromkeys(errors))
        if labels and all(label is None for label in labels.values()):
            self.unlabelled.append(location)
            return []
        self.table.texts.append(text)
        self.table.locations.append(location)
        self.table.strata += [stratum] if isinstance(stratum, str) else []
        if self.stratum:
            self.stratum.keep(location)
        for task, label in labels.items():
            self.table.labels[task].append(label)
            if label is not None:
                self.readers[task].keep(location)
        return []

    def describe_changes(self) -> Iterator[str]:
        """Say which labels are not as they were written."""
        for reader in self.readers.values():
            yield from reader.describe_changes()

    def describe_unlabelled(self, path: Path) -> Iterator[str]:
        """Say which rows were left out because no task has a label for them."""
        if self.unlabelled:
            count, rows = len(self.unlabelled), len(self.table.texts) + len(self.unlabelled)
            yield (
                f"{path}: {count:,} of {rows:,} rows have no label of any task and were left out; "
                f"the first is {self.unlabelled[0]}"
            )


def summarize(problems: Sequence[str], count: int | None = None) -> list[str]:
    """Keep the first 20 problems and say how many there are, which is ``count`` where not all are given."""
    count = len(problems) if count is None else count
    if count <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], f"... and {count - SHOWN:,} more; {count:,} problems in all"]
