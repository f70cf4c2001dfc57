"""What is kept and filed of a sequence follows from what heads read of it."""

import torch

from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.prefix import Cut


def ragged(*sequences: list[int]) -> Ragged:
    values = torch.tensor([number for sequence in sequences for number in sequence], dtype=torch.int64)
    return Ragged(values, offsets_of(torch.tensor([len(sequence) for sequence in sequences])))


#: A text whole, one of which heads read words, and one of which they read both.
SEQUENCES = Sequences(
    ragged([101, 7, 102], [101, 7, 8, 9, 102], [101, 7, 102]),
    torch.tensor([True, False, True]),
    ragged([], [1, 3], [1]),
)
POOLED, FIRST, TOKENS = Cut(3, "pooled"), Cut(2, "first token"), Cut(1, "tokens")


def test_a_cut_keeps_every_token_or_what_heads_read() -> None:
    assert SEQUENCES.vectors_kept(TOKENS).tolist() == [3, 5, 3]
    assert SEQUENCES.vectors_kept(POOLED).tolist() == SEQUENCES.vectors_kept(FIRST).tolist() == [1, 2, 2]


def test_words_stand_behind_what_is_pooled_or_where_their_tokens_are() -> None:
    places = SEQUENCES.word_places(POOLED)
    assert (places.values.tolist(), places.lengths.tolist()) == ([0, 1, 1], [0, 2, 1])
    assert SEQUENCES.word_places(TOKENS).values.tolist() == [1, 3, 1]


def test_what_is_read_of_equal_texts_is_filed_apart_and_their_tokens_together() -> None:
    whole, words, both = SEQUENCES.digests(POOLED)
    assert len({whole, words, both}) == 3
    assert SEQUENCES.digests(TOKENS)[0] == SEQUENCES.digests(TOKENS)[2] == whole
    other = Sequences(SEQUENCES.token_ids, SEQUENCES.pooled, ragged([], [1, 2], [1]))
    assert [one == two for one, two in zip(SEQUENCES.digests(POOLED), other.digests(POOLED), strict=True)] == [
        True,
        False,
        True,
    ]


def test_some_are_taken_with_what_is_read_of_them() -> None:
    taken = SEQUENCES.take(torch.tensor([2, 1]))
    assert taken.lengths.tolist() == [3, 5]
    assert taken.pooled.tolist() == [True, False]
    assert taken.word_starts.values.tolist() == [1, 1, 3]
