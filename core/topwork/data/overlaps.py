"""Say which texts occur more than once, and where that flatters the results."""

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from topwork.data.table import Table
from topwork.data.text_digests import count_distinct, digests_of, first_rows
from topwork.experiment.source import SPLITS, SplitName


def describe_overlaps(sources: Mapping[str, Mapping[SplitName, Table]]) -> list[str]:
    """Say how many texts of a later split also occur in an earlier one, be it of another source.

    Args:
        sources: the rows of each split of each source; all have some to train on.
    """
    parts = [(split, source) for split, source in itertools.product(SPLITS, sources) if split in sources[source]]
    tables = [sources[source][split] for split, source in parts]
    ends = np.cumsum([len(table.texts) for table in tables])
    first = first_rows(digests_of(table.texts for table in tables))
    of_parts = np.split(first, ends[:-1])
    named = {source: f" of {source}" if len(sources) > 1 else "" for source in sources}
    warnings = []
    for (split, source), table, of_part in zip(parts, tables, of_parts, strict=True):
        for earlier, row, count in _met_before(of_part, ends):
            earlier_split, earlier_source = parts[earlier]
            if earlier_split != split:
                met_at = tables[earlier].locations[int(of_part[row]) - int(ends[earlier])]  # counted from its end
                warnings.append(
                    f"{count} of {len(table.texts)} {split} texts{named[source]} also occur in "
                    f"{earlier_split}{named[earlier_source]}, which flatters the results; the first is "
                    f"{table.locations[row]}, the same as {met_at}"
                )
    for (split, source), of_part in zip(parts, of_parts, strict=True):
        if split == "train" and (repeated := len(of_part) - count_distinct(of_part, len(first))):
            warnings.append(f"{repeated} of {len(of_part)} training texts{named[source]} repeat an earlier one")
    return warnings


def _met_before(first: NDArray[np.int64], ends: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return the parts that texts of a part were first met in: which, the first row, and how many rows.

    Args:
        first: of each row, the number among all rows of the first that has the same text.
        ends: where each part ends among all rows.
    """
    parts, rows, counts = np.unique(np.searchsorted(ends, first, "right"), return_index=True, return_counts=True)
    return sorted(zip(parts.tolist(), rows.tolist(), counts.tolist(), strict=True), key=lambda found: found[1])
