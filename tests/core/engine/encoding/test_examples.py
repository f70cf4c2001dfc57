"""Examples give each row the activation of its text, and its targets."""

import numpy as np
import torch

from encoding_helpers import no_words
from topwork.data.dataset import DataSplit
from topwork.engine.encoding.examples import Activations, Examples, make_examples
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.interfaces.head import Reading

DISTINCT = Ragged(torch.arange(12.0).view(6, 2), offsets_of(torch.tensor([1, 3, 2])))


def examples_of(distinct: Activations, text_ids: list[list[int]], **reads: Reading) -> Examples:
    """Rows that all have a label of each task."""
    rows = torch.tensor(text_ids)
    every = torch.ones(len(rows), dtype=torch.bool)
    return Examples(distinct, no_words(3), rows, {}, dict.fromkeys(reads, every), reads, (len(rows),))


def test_rows_with_equal_texts_get_the_same_activation() -> None:
    batch = examples_of(DISTINCT, [[2], [0], [2]]).batch(torch.tensor([0, 1, 2]))
    assert torch.equal(batch.hidden[0], batch.hidden[2])
    assert batch.mask.tolist() == [[True, True], [True, False], [True, True]]
    assert batch.hidden[0].tolist() == [[8.0, 9.0], [10.0, 11.0]]


def test_what_is_kept_in_half_precision_is_trained_on_in_float32() -> None:
    halved = Ragged(DISTINCT.values.half(), DISTINCT.offsets)
    assert examples_of(halved, [[0]]).batch(torch.tensor([0])).hidden.dtype == torch.float32


def test_token_ids_stay_whole_numbers() -> None:
    batch = examples_of(Ragged(torch.arange(6), DISTINCT.offsets), [[1]]).batch(torch.tensor([0]))
    assert batch.hidden.dtype == torch.int64
    assert batch.hidden.tolist() == [[1, 2, 3]]


def test_a_head_that_reads_two_texts_apart_gets_both_and_others_the_sequence() -> None:
    text_ids = [[0, -1, -1], [-1, 1, 2], [2, 1, 0]]
    labelled = {"whole": [True, False, True], "apart": [False, True, True]}
    examples = Examples(
        DISTINCT,
        no_words(3),
        torch.tensor(text_ids),
        targets={},
        labelled={task: torch.tensor(values) for task, values in labelled.items()},
        reads={"whole": "pooled", "apart": "two pooled"},
        source_sizes=(3,),
    )
    batch = examples.batch(torch.tensor([2, 0, 1]))
    read = [[2, 1, 0], [0], [1, 2]]  # text by text, without those that no head reads
    lengths = batch.mask.sum(dim=1)
    assert lengths.tolist() == [int(DISTINCT.lengths[text]) for row in read for text in row]
    assert {task: numbers.tolist() for task, numbers in batch.inputs.items()} == {
        "whole": [0, 3],
        "apart": [[1, 2], [4, 5]],
    }


def test_examples_hold_the_targets_of_every_task_and_are_counted() -> None:
    targets = {"mood": np.array([1, 0, 1]), "topic": np.array([2, 2, 0])}
    every = dict.fromkeys(targets, np.ones(3, np.bool_))
    rows = DataSplit(["a", "b", "c"], targets, every, {"rows": 3})
    examples = make_examples(
        DISTINCT, no_words(3), torch.tensor([[0], [1], [2]]), rows, dict.fromkeys(targets, "pooled")
    )
    assert examples.count == 3
    assert {task: values.tolist() for task, values in examples.targets.items()} == {
        "mood": [1, 0, 1],
        "topic": [2, 2, 0],
    }


def partly_labelled() -> Examples:
    labelled = {"mood": [True, False, True, True], "topic": [True] * 4, "rating": [False] * 4}
    return Examples(
        DISTINCT,
        no_words(3),
        torch.zeros(4, 1, dtype=torch.int64),
        targets={"mood": torch.tensor([1, 0, 0, 1]), "topic": torch.arange(4), "rating": torch.zeros(4)},
        labelled={task: torch.tensor(values) for task, values in labelled.items()},
        reads=dict.fromkeys(labelled, "pooled"),
        source_sizes=(3, 1),
    )


def test_each_task_has_the_rows_that_have_a_label_of_it() -> None:
    found = partly_labelled().labelled_rows(torch.tensor([3, 1, 0]))
    assert {task: rows.tolist() for task, rows in found.items()} == {"mood": [0, 2], "topic": [0, 1, 2]}
    assert partly_labelled().labelled_rows(torch.tensor([1])).keys() == {"topic"}


def test_the_targets_of_a_task_are_those_of_its_rows() -> None:
    targets = partly_labelled().labelled_targets()
    assert {task: values.tolist() for task, values in targets.items()} == {"mood": [1, 0, 1], "topic": [0, 1, 2, 3]}
    assert partly_labelled().count == 4
