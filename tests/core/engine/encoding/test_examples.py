"""Examples give each row the activation of its text, and its targets."""

import numpy as np
import torch

from topwork.data.dataset import DataSplit
from topwork.engine.encoding.examples import Examples, SharedActivations, make_examples
from topwork.engine.encoding.ragged import Ragged, offsets_of

DISTINCT = Ragged(torch.arange(12.0).view(6, 2), offsets_of(torch.tensor([1, 3, 2])))


def test_rows_with_equal_texts_get_the_same_activation() -> None:
    values, mask = SharedActivations(DISTINCT, torch.tensor([2, 0, 2])).batch(torch.tensor([0, 1, 2]))
    assert torch.equal(values[0], values[2])
    assert mask.tolist() == [[True, True], [True, False], [True, True]]
    assert values[0].tolist() == [[8.0, 9.0], [10.0, 11.0]]


def test_what_is_kept_in_half_precision_is_trained_on_in_float32() -> None:
    halved = Ragged(DISTINCT.values.half(), DISTINCT.offsets)
    values, _ = SharedActivations(halved, torch.tensor([0])).batch(torch.tensor([0]))
    assert values.dtype == torch.float32


def test_token_ids_stay_whole_numbers() -> None:
    ids = Ragged(torch.arange(6), DISTINCT.offsets)
    values, _ = SharedActivations(ids, torch.tensor([1])).batch(torch.tensor([0]))
    assert values.dtype == torch.int64
    assert values.tolist() == [[1, 2, 3]]


def test_examples_hold_the_targets_of_every_task_and_are_counted() -> None:
    targets = {"mood": np.array([1, 0, 1]), "topic": np.array([2, 2, 0])}
    every = dict.fromkeys(targets, np.ones(3, np.bool_))
    examples = make_examples(DISTINCT, torch.tensor([0, 1, 2]), DataSplit(["a", "b", "c"], targets, every, {"rows": 3}))
    assert examples.count == 3
    assert {task: values.tolist() for task, values in examples.targets.items()} == {
        "mood": [1, 0, 1],
        "topic": [2, 2, 0],
    }


def partly_labelled() -> Examples:
    labelled = {"mood": [True, False, True, True], "topic": [True] * 4, "rating": [False] * 4}
    return Examples(
        DISTINCT,
        targets={"mood": torch.tensor([1, 0, 0, 1]), "topic": torch.arange(4), "rating": torch.zeros(4)},
        labelled={task: torch.tensor(values) for task, values in labelled.items()},
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
