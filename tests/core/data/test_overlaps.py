"""Texts that occur in several splits are counted, whatever source they are of."""

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.locations import Locations
from topwork.data.overlaps import describe_overlaps
from topwork.data.table import Table
from topwork.data.text_column import Texts
from topwork.experiment.source import SPLITS, SplitName

ROWS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8)
SOURCE = st.fixed_dictionaries({"train": ROWS}, optional={"validation": ROWS, "test": ROWS})
Sources = dict[str, dict[SplitName, list[str]]]


def table(name: str, texts: list[str]) -> Table:
    lines = np.stack([np.zeros(len(texts), np.int64), np.arange(len(texts)) + 2], axis=1)
    return Table(Texts.of(texts), {}, Locations((Path(f"{name}.csv"),), lines))


def told_one_by_one(sources: Sources) -> list[str]:
    """The warnings, from a dictionary of all texts."""
    warnings, met = [], dict[str, tuple[SplitName, str, str]]()
    of = {source: f" of {source}" if len(sources) > 1 else "" for source in sources}
    for split, source in itertools.product(SPLITS, sources):
        texts, common = sources[source].get(split, []), dict[str, list[str]]()
        for line, text in enumerate(texts, 2):
            first_split, first_source, first = met.setdefault(text, (split, source, f"{source}-{split}.csv:{line}"))
            if first_split != split:
                pair = f"{source}-{split}.csv:{line}, the same as {first}"
                common.setdefault(f"{first_split}{of[first_source]}", []).append(pair)
        warnings += [
            f"{len(pairs)} of {len(texts)} {split} texts{of[source]} also occur in {earlier}, which flatters the "
            f"results; the first is {pairs[0]}"
            for earlier, pairs in common.items()
        ]
    for source, splits in sources.items():
        if repeated := len(splits["train"]) - len(set(splits["train"])):
            warnings.append(f"{repeated} of {len(splits['train'])} training texts{of[source]} repeat an earlier one")
    return warnings


@given(st.dictionaries(st.sampled_from(["films", "letters", "news"]), SOURCE, min_size=1))
def test_overlaps_are_those_that_are_found_text_by_text(sources: Sources) -> None:
    tables = {
        source: {split: table(f"{source}-{split}", texts) for split, texts in splits.items()}
        for source, splits in sources.items()
    }
    assert describe_overlaps(tables) == told_one_by_one(sources)
