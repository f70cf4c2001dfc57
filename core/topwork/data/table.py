"""Read a source and check every row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from topwork.data.files import decompress, digest_of, find_files, format_suffix, join_digests, open_file, stamp_of
from topwork.data.hub import read_from_hub
from topwork.data.label_column import LabelColumn, LabelsWriter, RowLabel
from topwork.data.label_reader import LabelReader, heads_for
from topwork.data.labels import NO_NUMBER, MissingLabelError
from topwork.data.locations import Locations, LocationsWriter
from topwork.data.readers import read
from topwork.data.row_values import Rows
from topwork.data.rows import Row, RowError
from topwork.data.text_column import Texts, TextsWriter
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
        locations: ``file:line`` of each.
        renamed: the labels of a task that were given other names.
        strata: of each, the value of the column that a stratified split goes by; None for other splits.
        digest: sha256 of the file's bytes, in hexadecimal; of several files, that of their digests in a row.
        warnings: what the researcher should know about how the file was read, with counts.
    """

    texts: Texts
    labels: dict[str, LabelColumn]
    locations: Locations
    renamed: dict[str, set[str]] = field(default_factory=dict, compare=False)
    strata: LabelColumn | None = None
    digest: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def spaces(self) -> dict[str, type[LabelSpace]]:
        """What the labels of a task were read as, of those that have any."""
        return {task: labels.space for task, labels in self.labels.items() if labels.space}

    def take(self, rows: Rows) -> "Table":
        """Return some of the rows, without strata, digest and warnings."""
        labels = {task: column.take(rows) for task, column in self.labels.items()}
        return Table(self.texts.take(rows), labels, self.locations.take(rows), self.renamed)


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
    builder = _TableBuilder(source, columns, by)
    faults, notes, digests = _Faults(), list[str](), list[str]()
    for file in [path] if source.hub else find_files(path):
        stamp = None if source.hub else stamp_of(file)
        content = read_from_hub(source.hub, path.stem) if source.hub else open_file(file)
        digests.append(digest_of(content))
        found = read(file, decompress(file, content), source, wanted=wanted)
        notes += found.notes
        _add_rows(builder, file, islice(found.rows, source.limit), wanted, faults)
        if stamp and stamp_of(file) != stamp:
            raise DataError(f"{file}: the file changed while it was read; start again when nothing writes to it")
        if faults.whole_file:
            break
    skippable = bool(builder.count) and not faults.whole_file
    if faults.count and not (skippable and source.on_faulty_rows == "skip"):
        hints = ["to leave out faulty rows, set `on_faulty_rows: skip` of the source"] if skippable else []
        hints += [f"where rows may lack a label, set tasks.{task}.missing: skip" for task in sorted(builder.lacking)]
        if faults.of_numbers:
            numeric = [task for task, reader in builder.readers.items() if reader.space is Numbers]
            classes = heads_for(Classes)
            hints += [f"head {columns[task].head} of task {task} takes numbers; classes: {classes}" for task in numeric]
        raise DataError("\n".join([*summarize(faults.first, faults.count), *hints]))
    if not builder.count:
        none = "none of its rows has a label" if builder.unlabelled else "the file holds no rows"
        raise DataError(f"{path}: {none}")
    warnings = [
        *notes,
        *faults.describe(path),
        *builder.describe_changes(),
        *builder.describe_unlabelled(path),
    ]
    return replace(builder.finish(), digest=join_digests(digests), warnings=warnings)


@dataclass
class _Faults:
    """What is wrong with rows.

    Attributes:
        first: the first 20 problems, with their locations.
        count: how many problems there are.
        of_numbers: whether some are that a number is wanted.
        rows: how many rows have any.
        total: how many rows there are.
        whole_file: whether something is wrong with all rows that follow, so that they were not looked at.
    """

    first: list[str] = field(default_factory=list)
    count: int = 0
    of_numbers: bool = False
    rows: int = 0
    total: int = 0
    whole_file: bool = False

    def add(self, location: str, errors: Sequence[str]) -> None:
        """Add what is wrong with a row."""
        self.first += [f"{location}: {error}" for error in errors[: SHOWN - len(self.first)]]
        self.count += len(errors)
        self.of_numbers |= any(NO_NUMBER in error for error in errors)
        self.rows += 1

    def describe(self, path: Path) -> Iterator[str]:
        """Say which rows were skipped."""
        if self.count:
            head = f"{path}: {self.rows:,} of {self.total:,} rows are faulty and were skipped:"
            yield fit_screen("\n  ".join([head, *summarize(self.first, self.count)]))


def _add_rows(
    builder: "_TableBuilder",
    path: Path,
    rows: Iterable[tuple[int, Row | RowError]],
    wanted: Sequence[str],
    faults: _Faults,
) -> None:
    """Add the good rows to a table, and what is wrong with the others to the faults."""
    own_columns = format_suffix(path) in (".jsonl", ".conllu")
    for line, row in rows:
        faults.total += 1
        if isinstance(row, RowError):
            errors, faults.whole_file = [row.message], row.ends_file
        else:
            errors = builder.add(row, path, line, optional=own_columns)
            # where columns have one place in all rows, one that is missing is missing in each; once is enough
            faults.whole_file = bool(errors) and not own_columns and any(name not in row for name in wanted)
        if errors:
            faults.add(f"{path}:{line}", errors)
        if faults.whole_file:
            break


class _TableBuilder:
    """Checks rows and keeps the good ones.

    Attributes:
        count: how many were kept.
        lacking: the tasks of which a row lacks a label that must have one.
        unlabelled: how many rows have no label at all, and where the first is.
    """

    def __init__(self, source: Source, columns: Mapping[str, LabelColumns], by: str | None) -> None:
        self.words, self.text_columns = source.words, source.text_columns
        self.columns = columns
        self.readers = {task: LabelReader(task, of_task) for task, of_task in columns.items()}
        self.stratum = LabelReader("", LabelColumns((by,), AS_WRITTEN)) if by else None
        self.texts, self.locations = TextsWriter(), LocationsWriter()
        self.labels, self.strata = {task: LabelsWriter() for task in columns}, LabelsWriter()
        self.lacking: set[str] = set()
        self.unlabelled, self.first_unlabelled = 0, ""

    @property
    def count(self) -> int:
        return self.locations.count

    def finish(self) -> Table:
        """Return the rows that were kept."""
        return Table(
            texts=self.texts.finish(),
            labels={task: labels.finish(self.readers[task].space) for task, labels in self.labels.items()},
            locations=self.locations.finish(),
            renamed={task: reader.renamed for task, reader in self.readers.items()},
            strata=self.strata.finish(Classes) if self.stratum else None,
        )

    def add(self, row: Row, path: Path, line: int, *, optional: bool) -> list[str]:
        """Add a row, or return all that is wrong with it.

        Args:
            path, line: where it is.
            optional: whether a row without label columns is one without a label.
        """
        errors: list[str] = []
        text: Text = ""
        try:
            text = read_words(row, self.words) if self.words else read_text(row, self.text_columns)
        except ValueError as error:
            errors += str(error).splitlines()
        labels: dict[str, RowLabel | None] = {}
        count = len(text.words) if isinstance(text, Words) else None
        for task, reader in self.readers.items():
            try:
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
        location = f"{path}:{line}"
        if labels and list(labels.values()).count(None) == len(labels):
            self.unlabelled += 1
            self.first_unlabelled = self.first_unlabelled or location
            return []
        self.texts.append(text)
        self.locations.append(path, line)
        if self.stratum:
            self.strata.append(stratum)
            self.stratum.keep(location)
        for task, label in labels.items():
            self.labels[task].append(label)
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
            rows = self.count + self.unlabelled
            yield (
                f"{path}: {self.unlabelled:,} of {rows:,} rows have no label of any task and were left out; "
                f"the first is {self.first_unlabelled}"
            )


def summarize(problems: Sequence[str], count: int) -> list[str]:
    """Keep the first 20 problems and say how many there are, which is ``count``."""
    if count <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], f"... and {count - SHOWN:,} more; {count:,} problems in all"]
