"""What commands print for other programs: the rows of their tables in full precision, as CSV or as JSON."""

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from topwork.cli.format import Format
from topwork.cli.tables import console

if TYPE_CHECKING:
    from topwork.engine.evaluation.estimates import Estimate

#: A row of a table: values by column.
Row = Mapping[str, object]


@contextmanager
def result_alone(format: Format) -> Iterator[None]:
    """Keep standard output for the result where another program reads it: progress and notes go to standard error."""
    console.stderr = format is not Format.TABLE
    try:
        yield
    finally:
        console.stderr = False


def write_csv(rows: Sequence[Row]) -> None:
    """Write rows with a header; what is not known is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _known(value) for name, value in row.items()} for row in rows)


def write_json(value: object) -> None:
    """Write JSON; what is not known, or not finite, is null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=needs_ascii()))


def write_rows(rows: Sequence[Row], format: Format) -> None:
    """Write rows as CSV, or as a JSON array of objects."""
    if format is Format.CSV:
        write_csv(rows)
    else:
        write_json(rows)


def needs_ascii() -> bool:
    """Whether standard output takes less than all of Unicode."""
    return (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"


def rows_of_estimates(estimates: Mapping[str, "Estimate"]) -> list[Row]:
    """One row for each metric of each task."""
    parts = {name: name.rpartition("/") for name in estimates}
    return [
        {"task": parts[name][0], "metric": parts[name][2], "value": one.value, "low": one.low, "high": one.high}
        | {"rows": one.rows, "sd": one.sd, "seeds": one.seeds}
        for name, one in estimates.items()
    ]


def _known(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
