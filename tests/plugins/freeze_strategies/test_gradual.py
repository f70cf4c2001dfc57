"""Layers are unfrozen one after the other, the last first, and the embeddings never."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.gradual import GradualConfig

LAYERS = 2


def trainable(epoch: int, **settings: Any) -> set[str]:
    return set(GradualConfig(**settings).trainable(tiny_model(), epoch))


def parameters_of(*layers: int) -> set[str]:
    starts = tuple(f"layer.{number}." for number in layers)
    names = [name for name, _ in tiny_model().backbone.named_parameters()]
    return {f"backbone.{name}" for name in names if name.startswith(starts)} if layers else set()


@pytest.mark.parametrize(
    ("settings", "by_epoch"),
    [
        ({}, [(), (1,), (0, 1), (0, 1)]),
        ({"start": 1}, [(1,), (0, 1), (0, 1)]),
        ({"start": 2}, [(0, 1), (0, 1)]),
        ({"every": 2}, [(), (), (1,), (1,), (0, 1), (0, 1)]),
        ({"most": 1}, [(), (1,), (1,), (1,)]),
        ({"start": 1, "every": 3, "most": 2}, [(1,), (1,), (1,), (0, 1)]),
        ({"start": 1, "most": 1}, [(1,), (1,), (1,)]),
    ],
)
def test_one_more_layer_trains_after_so_many_epochs(settings: dict[str, Any], by_epoch: list[tuple[int, ...]]) -> None:
    for epoch, layers in enumerate(by_epoch, 1):
        assert trainable(epoch, **settings) == parameters_of(*layers)


@pytest.mark.slow
@given(st.integers(0, LAYERS), st.integers(1, 5), st.integers(1, 20))
def test_what_trains_goes_on_training(start: int, every: int, epoch: int) -> None:
    assert trainable(epoch, start=start, every=every) <= trainable(epoch + 1, start=start, every=every)


def test_the_embeddings_stay_frozen_to_the_end() -> None:
    assert not any("embeddings" in name or "positions" in name for name in trainable(1000))


def test_at_first_the_heads_train_alone_by_default() -> None:
    config = GradualConfig()
    assert (config.start, config.every, config.most) == (0, 1, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most": 3}, "most must be at most 2, the layers of the backbone, but is 3"),
        ({"start": 3}, "start must be at most 2, the layers that train in the end, but is 3"),
        ({"start": 2, "most": 1}, "start must be at most 1, the layers that train in the end, but is 2"),
        ({"start": 4, "most": 3}, "most must be at most 2, the layers of the backbone, but is 3"),
    ],
)
def test_more_layers_than_there_are_is_an_error_in_the_first_epoch(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        trainable(1, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"start": -1}, "greater than or equal to 0"),
        ({"start": 1.0}, "valid integer"),
        ({"start": True}, "valid integer"),
        ({"every": 0}, "greater than or equal to 1"),
        ({"most": 0}, "greater than or equal to 1"),
        ({"evry": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        GradualConfig(**settings)
