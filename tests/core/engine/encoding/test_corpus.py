"""Texts become token ids, each distinct text once, and what is truncated is counted."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from encoding_helpers import corpus_of, digests_of, pieces
from topwork.data.dataset import DataSplit
from topwork.data.texts import Text
from topwork.engine.encoding.corpus import TextsRead, texts_to_read, tokenize
from topwork.engine.model.plan import CorpusSize
from topwork.testing.tiny import letter_tokenizer
from topwork_plugins.backbones.minilm import package_folder
from topwork_plugins.backbones.pretrained import prepare_tokenizer


@pytest.mark.parametrize(("letters", "tokens", "truncated"), [(1, 3, 0), (30, 32, 0), (31, 32, 1), (500, 32, 1)])
def test_truncated_texts_are_counted(letters: int, tokens: int, truncated: int) -> None:
    found = tokenize(letter_tokenizer(max_length=32), ["a" * letters, "short"])
    assert found.token_ids.lengths.tolist() == [tokens, 7]
    assert found.truncated.tolist() == [bool(truncated), False]


def test_more_texts_than_are_tokenized_at_once_keep_their_order() -> None:
    texts = ["ab"[number % 2] * (number % 7 + 1) for number in range(2003)]
    tokenizer = letter_tokenizer(max_length=6)
    found = tokenize(tokenizer, texts)
    assert [piece.tolist() for piece in pieces(found.token_ids)] == [tokenizer.encode(text).ids for text in texts]
    assert found.truncated.tolist() == [len(text) > 4 for text in texts]


def test_equal_texts_share_one_sequence_in_all_splits() -> None:
    corpus = corpus_of(letter_tokenizer(32), train=["ab", "cd", "ab"], test=["cd", "e"])
    assert {name: ids.tolist() for name, ids in corpus.text_ids.items()} == {
        "train": [[0], [1], [0]],
        "test": [[1], [2]],
    }
    assert corpus.sequences.token_ids.lengths.tolist() == [4, 4, 3]
    assert corpus.size == CorpusSize(
        texts=5,
        tokens=19,
        distinct_texts=3,
        distinct_tokens=11,
        distinct_pooled=3,
        distinct_words=0,
        truncated=0,
        unread_words=0,
    )


def test_texts_that_are_equal_once_truncated_share_one_sequence() -> None:
    corpus = corpus_of(letter_tokenizer(4), ["abc", "abd", "ax"])
    assert corpus.text_ids["train"].tolist() == [[0], [0], [1]]
    assert corpus.size.truncated == 2


def test_the_digest_of_a_text_is_that_of_its_token_ids_alone() -> None:
    together = corpus_of(letter_tokenizer(32), ["first", "second"])
    alone = corpus_of(letter_tokenizer(64), test=["second"])
    assert digests_of(together)[1] == digests_of(alone)[0]
    assert digests_of(together)[0] != digests_of(together)[1]


def test_a_text_of_20_megabytes_is_truncated_at_once() -> None:
    tokenizer = Tokenizer.from_file(str(package_folder() / "tokenizer.json"))
    prepare_tokenizer(tokenizer, 256)
    started = perf_counter()
    found = tokenize(tokenizer, ["word " * 4_000_000, "word " * 300, "short"])
    assert perf_counter() - started < 5  # the whole takes 20
    long, wanted, _ = pieces(found.token_ids)
    assert (long.tolist(), found.truncated.tolist()) == (wanted.tolist(), [True, True, False])


def test_a_pair_is_one_sequence_with_a_mark_between() -> None:
    tokenizer = letter_tokenizer(32)
    corpus = corpus_of(tokenizer, [("ab", "cd"), "ab", ("ab", "cd")])
    assert corpus.text_ids["train"].tolist() == [[0], [1], [0]]
    first = corpus.sequences.token_ids.values[: int(corpus.sequences.token_ids.lengths[0])]
    assert [tokenizer.id_to_token(number) for number in first.tolist()] == [
        "[CLS]",
        "a",
        "b",
        "[SEP]",
        "c",
        "d",
        "[SEP]",
    ]


def rows_with(texts: list[Text], **labelled: list[bool]) -> DataSplit:
    masks = {task: np.array(values) for task, values in labelled.items()}
    return DataSplit(texts, {}, masks, {"rows": len(texts)})


def texts_of(columns: Sequence[TextsRead]) -> list[list[Text | None]]:
    found: list[list[Text | None]] = [[None] * len(column.texts) for column in columns]
    for texts, column in zip(found, columns, strict=True):
        for rows, some in column.parts():
            for row, text in zip(rows.tolist(), some, strict=True):
                texts[row] = text
    return found


def test_a_pair_is_read_as_one_sequence_or_apart_as_the_heads_with_a_label_want_it() -> None:
    pairs: list[Text] = [("a", "b"), ("c", "d"), ("e", "f")]
    rows = rows_with(pairs, joint=[True, True, False], alike=[False, True, True])
    assert texts_of(texts_to_read(rows, {"joint": "pooled", "alike": "two pooled"})) == [
        [("a", "b"), ("c", "d"), None],
        [None, "c", "e"],
        [None, "d", "f"],
    ]
    assert texts_of(texts_to_read(rows, {"joint": "pooled", "alike": "pooled"})) == [pairs]


def test_texts_that_no_head_reads_are_read_as_they_are() -> None:
    assert texts_of(texts_to_read(rows_with(["a", ("b", "c")]), {})) == [["a", ("b", "c")]]


def test_a_text_that_is_read_in_several_ways_is_one_sequence() -> None:
    corpus = corpus_of(letter_tokenizer(32), [("a", "b"), None, "b"], [None, "a", "b"], [None, "b", "a"])
    assert corpus.text_ids["train"].tolist() == [[0, -1, -1], [-1, 2, 1], [1, 1, 2]]
    assert (corpus.size.texts, corpus.size.distinct_texts) == (6, 3)


def test_a_prefix_is_put_before_every_text_and_before_each_of_a_pair() -> None:
    tokenizer = letter_tokenizer(max_length=64)
    texts = ["abc", ("d", "e")]
    found = tokenize(tokenizer, texts, prefix="q ")
    assert torch.equal(found.token_ids.values, tokenize(tokenizer, ["q abc", ("q d", "q e")]).token_ids.values)
