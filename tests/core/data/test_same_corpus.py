"""The same rows through every kind of file are the same rows."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topwork.data.table import Table, read_table
from topwork.data.texts import Words
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.experiment.source import Source
from topwork.interfaces.labels import Classes, LabelSet, Numbers, WordLabels

Row = tuple[str, list[str], str, str]

#: What every kind of file can hold in one line, and must not change: odd blanks, quotes, separators, other line ends.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;|\x85\u2028\x0b\x1c')
TEXTS = st.text(CHARACTERS, min_size=1, max_size=30).filter(str.strip)
NAMES = st.sampled_from(["joy", "anger", "fear of, the", 'so "so"', "été"])
ROWS = st.lists(
    st.tuples(
        TEXTS,
        st.lists(NAMES, unique=True, min_size=1, max_size=3),
        st.floats(-1e6, 1e6).map(repr),
        st.sampled_from(["a", "b", ""]),
    ),
    min_size=1,
    max_size=6,
)
SEPARATOR = "|"
COLUMNS = ("text", "emotions", "score", "kind")
TASKS = {
    "emotions": LabelColumns(("emotions",), LabelFormat(separator=SEPARATOR), spaces=(LabelSet,)),
    "score": LabelColumns(("score",), LabelFormat(), spaces=(Numbers,)),
    "kind": LabelColumns(("kind",), LabelFormat(), missing="skip", spaces=(Classes,)),
}


def as_delimited(rows: list[Row], delimiter: str, header: bool = True) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([COLUMNS] if header else [])
    writer.writerows([text, SEPARATOR.join(emotions), score, kind] for text, emotions, score, kind in rows)
    return file.getvalue().encode()


def as_jsonl(rows: list[Row]) -> bytes:
    objects = [
        {"text": text, "emotions": emotions, "score": float(score), "kind": kind or None}
        for text, emotions, score, kind in rows
    ]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects).encode()


def as_parquet(rows: list[Row]) -> bytes:
    texts, emotions, scores, kinds = zip(*rows, strict=True)
    columns: dict[str, Any] = {"text": texts, "emotions": emotions, "score": list(map(float, scores))}
    columns["kind"] = [kind or None for kind in kinds]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def as_lines(rows: list[Row]) -> bytes:
    lines = [f"{score}\t{kind}\t{SEPARATOR.join(emotions)}\t{text}\n" for text, emotions, score, kind in rows]
    return "".join(lines).encode()


PATTERN = r"(?P<score>[^\t]*)\t(?P<kind>[^\t]*)\t(?P<emotions>[^\t]*)\t(?P<text>.*)"

KINDS: dict[str, tuple[str, Callable[[list[Row]], bytes], dict[str, Any]]] = {
    "csv": ("a.csv", lambda rows: as_delimited(rows, ","), {}),
    "tsv": ("a.tsv", lambda rows: as_delimited(rows, "\t"), {}),
    "csv without header": ("b.csv", lambda rows: as_delimited(rows, ",", header=False), {"columns": COLUMNS}),
    "jsonl": ("a.jsonl", as_jsonl, {}),
    "parquet": ("a.parquet", as_parquet, {}),
    "csv.gz": ("a.csv.gz", lambda rows: gzip.compress(as_delimited(rows, ",")), {}),
    "jsonl.gz": ("a.jsonl.gz", lambda rows: gzip.compress(as_jsonl(rows)), {}),
    "pattern": ("a.txt", as_lines, {"pattern": PATTERN}),
    "pattern.gz": ("a.txt.gz", lambda rows: gzip.compress(as_lines(rows)), {"pattern": PATTERN}),
}


def read(folder: Path, kind: str, rows: list[Row]) -> Table:
    name, encode, options = KINDS[kind]
    path = folder / name
    path.write_bytes(encode(rows))
    return read_table(path, Source(path=path, **options), TASKS)


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=ROWS)
def test_rows_are_what_was_written(tmp_path: Path, kind: str, rows: list[Row]) -> None:
    found = read(tmp_path, kind, rows)
    assert found.texts == [text for text, *_ in rows]
    assert found.labels["emotions"] == [tuple(emotions) for _, emotions, _, _ in rows]
    assert found.labels["score"] == [(float(score),) for _, _, score, _ in rows]
    assert found.labels["kind"] == [kind or None for _, _, _, kind in rows]


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    rows: list[Row] = [(f"text {number}", ["joy"], f"{number}.5", "a") for number in range(6)]
    (tmp_path / "part-1.csv").write_bytes(as_delimited(rows[:2], ","))
    (tmp_path / "part-2.csv").write_bytes(as_delimited(rows[2:], ","))
    pattern = tmp_path / "part-*.csv"
    found = read_table(pattern, Source(path=pattern), TASKS)
    assert found.texts == [text for text, *_ in rows]
    assert found.locations[1:3] == [f"{tmp_path / 'part-1.csv'}:3", f"{tmp_path / 'part-2.csv'}:2"]
    limited = read_table(pattern, Source(path=pattern, limit=1), TASKS)
    assert limited.texts == ["text 0", "text 2"]
    assert limited.digest == found.digest


#: Words as every kind of file can hold them: without blanks, which divide a cell, or anything that ends a line.
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]) | st.sampled_from('",;|#'), min_size=1, max_size=8)
SENTENCES = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(["NOUN", "VERB", "O", "B-x"])), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)
TAGS = {"tag": LabelColumns(("tag",), LabelFormat(), spaces=(WordLabels,))}
UPOS = {"tag": LabelColumns(("upos",), LabelFormat(), spaces=(WordLabels,))}

Sentence = list[tuple[str, str]]


def words_as_csv(sentences: list[Sentence]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["word", "tag"])
    writer.writerows([" ".join(column) for column in zip(*sentence, strict=True)] for sentence in sentences)
    return file.getvalue().encode()


def words_as_jsonl(sentences: list[Sentence]) -> bytes:
    rows = [dict(zip(("word", "tag"), map(list, zip(*sentence, strict=True)), strict=True)) for sentence in sentences]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def words_as_parquet(sentences: list[Sentence]) -> bytes:
    columns = {
        name: [[pair[at] for pair in sentence] for sentence in sentences] for at, name in enumerate(("word", "tag"))
    }
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def words_as_conll(sentences: list[Sentence]) -> bytes:
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences).encode()


def words_as_conllu(sentences: list[Sentence]) -> bytes:
    lines = [
        "".join(f"{n}\t{word}\t_\t{tag}{chr(9)}_" + "\t_" * 5 + "\n" for n, (word, tag) in enumerate(sentence, 1))
        for sentence in sentences
    ]
    return "\n".join(lines).encode()


WORD_KINDS: dict[str, tuple[str, Callable[[list[Sentence]], bytes], dict[str, Any], dict[str, LabelColumns]]] = {
    "csv": ("w.csv", words_as_csv, {"words": "word"}, TAGS),
    "jsonl": ("w.jsonl", words_as_jsonl, {"words": "word"}, TAGS),
    "parquet": ("w.parquet", words_as_parquet, {"words": "word"}, TAGS),
    "conll": ("w.conll", words_as_conll, {"words": "word", "columns": ("word", "tag")}, TAGS),
    "conllu": ("w.conllu", words_as_conllu, {"words": "form"}, UPOS),
    "conllu.gz": ("w.conllu.gz", lambda rows: gzip.compress(words_as_conllu(rows)), {"words": "form"}, UPOS),
}


@pytest.mark.parametrize("kind", WORD_KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(sentences=SENTENCES)
def test_words_are_what_was_written(tmp_path: Path, kind: str, sentences: list[Sentence]) -> None:
    name, encode, options, tasks = WORD_KINDS[kind]
    path = tmp_path / name
    path.write_bytes(encode(sentences))
    found = read_table(path, Source(path=path, **options), tasks)
    assert found.texts == [Words(tuple(word for word, _ in sentence)) for sentence in sentences]
    assert found.labels["tag"] == [tuple(tag for _, tag in sentence) for sentence in sentences]
