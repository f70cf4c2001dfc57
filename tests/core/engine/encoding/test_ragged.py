"""Ragged sequences give back what was put in, padded under a mask or taken in any order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from encoding_helpers import pieces
from topwork.engine.encoding.ragged import Ragged, offsets_of


@st.composite
def ragged_and_rows(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    sequences = draw(Sequences)
    return sequences, draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=10))


def ragged(sequences: list[list[int]]) -> Ragged:
    values = torch.tensor([value for sequence in sequences for value in sequence])
    return Ragged(values, offsets_of(torch.tensor([len(sequence) for sequence in sequences])))


@given(ragged_and_rows())
def test_a_batch_holds_the_wanted_sequences_under_its_mask(drawn: tuple[list[list[int]], list[int]]) -> None:
    sequences, rows = drawn
    values, mask = ragged(sequences).batch(torch.tensor(rows))
    assert values.shape == mask.shape == (len(rows), max(len(sequences[row]) for row in rows))
    assert [line[seen].tolist() for line, seen in zip(values, mask, strict=True)] == [sequences[row] for row in rows]
    assert all(bool(seen[: len(sequences[row])].all()) for row, seen in zip(rows, mask, strict=True))


@given(ragged_and_rows())
def test_taking_gives_the_wanted_sequences_in_order(drawn: tuple[list[list[int]], list[int]]) -> None:
    sequences, rows = drawn
    taken = ragged(sequences).take(torch.tensor(rows))
    assert [piece.tolist() for piece in pieces(taken)] == [sequences[row] for row in rows]
    assert taken.lengths.tolist() == [len(sequences[row]) for row in rows]


def test_a_batch_of_vectors_keeps_their_columns() -> None:
    vectors = Ragged(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 4]))
    values, mask = vectors.batch(torch.tensor([1, 0]))
    assert values.shape == (2, 3, 3)
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(values[1, 0], vectors.values[0])


Sequences = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=8)
