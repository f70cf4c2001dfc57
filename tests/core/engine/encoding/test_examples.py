"""Examples give each row the activation of its text, and its targets."""

import numpy as np
import torch

from topwork.engine.encoding.examples import SharedActivations, make_examples
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
    examples = make_examples(DISTINCT, torch.tensor([0, 1, 2]), targets)
    assert examples.count == 3
    assert {task: values.tolist() for task, values in examples.targets.items()} == {
        "mood": [1, 0, 1],
        "topic": [2, 2, 0],
    }
