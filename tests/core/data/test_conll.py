"""Sentences of which each word has a line are rows of lists."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from topwork.data.readers import read
from topwork.data.rows import RowError
from topwork.errors import DataError
from topwork.experiment.source import Source

CONLLU = """# sent_id = one
# text = We don't.
1\tWe\twe\tPRON\tPRP\tCase=Nom\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\tSpaceAfter=No
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t0:root\t_
4\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

1\t_\t_\tSYM\tNFP\t_\t0\troot\t_\t_
"""


def rows(name: str, content: str, **options: Any) -> list[tuple[int, Any]]:
    path = Path(name)
    found = read(path, partial(io.BytesIO, content.encode()), Source(path=path, **options), wanted=())
    return [(line, row.message if isinstance(row, RowError) else dict(row)) for line, row in found.rows]


def test_a_sentence_of_conllu_is_a_row_of_its_columns_and_comments() -> None:
    (first, one), (second, other) = rows("a.conllu", CONLLU)
    assert (first, second) == (3, 10)
    assert one["form"] == ["We", "do", "n't", "."]
    assert one["upos"] == ["PRON", "AUX", "PART", "PUNCT"]
    assert one["feats"] == ["Case=Nom", None, None, None]
    assert (one["text"], one["sent_id"]) == ("We don't.", "one")
    assert (other["form"], other["lemma"], other["feats"]) == (["_"], ["_"], [None])


CONLL = """-DOCSTART- -X- O

# a comment = of no use
EU NNP B-ORG
rejects VBZ O

#\t#\tO
1\tCD\tO


"""


def test_a_sentence_of_conll_has_the_columns_that_are_named() -> None:
    found = rows("a.conll", CONLL, columns=("word", "pos", "ner"))
    assert found == [
        (4, {"word": ["EU", "rejects"], "pos": ["NNP", "VBZ"], "ner": ["B-ORG", "O"]}),
        (7, {"word": ["#", "1"], "pos": ["#", "CD"], "ner": ["O", "O"]}),
    ]
    assert rows("a.conll", "EU NNP x B-ORG\n", columns=("word", "pos", "...")) == [
        (1, {"word": ["EU"], "pos": ["NNP"]})
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_feeds_end_a_line_and_only_tabs_and_spaces_divide_it(end: str) -> None:
    lines = ["a\x85b  O", "10\xa0000 B-x", "", "c\u2028d\tI-x"]
    assert rows("a.conll", end.join(lines), columns=("word", "tag")) == [
        (1, {"word": ["a\x85b", "10\xa0000"], "tag": ["O", "B-x"]}),
        (4, {"word": ["c\u2028d"], "tag": ["I-x"]}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        (
            "a.conllu",
            "1\tWe\tPRON\n",
            {},
            (1, "a word's line must have 10 fields divided by tabs, got 3: '1\\tWe\\tPRON'"),
        ),
        (
            "a.conllu",
            "x" + "\t_" * 9 + "\n",
            {},
            (1, "a word's line must begin with its number, got 'x'"),
        ),
        (
            "a.conll",
            "EU B-ORG\nrejects\nit O\n",
            {"columns": ("word", "tag")},
            (2, "a word's line must have 2 fields divided by tabs or blanks, got 1: 'rejects'"),
        ),
        (
            "a.conll",
            "EU\n",
            {"columns": ("word", "tag", "...")},
            (1, "a word's line must have at least 2 fields divided by tabs or blanks, got 1: 'EU'"),
        ),
    ],
)
def test_a_line_that_is_wrong_spoils_its_sentence_alone(
    name: str, content: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    good = "\n1" + "\t_" * 9 + "\n" if name.endswith("u") else "\nfine O\n"
    found = rows(name, content + good, **options)
    assert found[0] == expected
    assert len(found) == 2


def test_a_conll_file_needs_the_names_of_its_columns(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"^a.conll: a .conll file does not name its columns; name them, such as "):
        rows("a.conll", "EU O\n")
    with pytest.raises(DataError, match=r"^a.conllu: only .csv, .tsv and .conll files have rows without names"):
        rows("a.conllu", CONLLU, columns=("a", "b"))
