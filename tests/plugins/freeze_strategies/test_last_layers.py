"""The last layers train, whole."""

import pytest
from pydantic import ValidationError

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.last_layers import LastLayersConfig


def trainable(count: int) -> set[str]:
    return set(LastLayersConfig(count=count).trainable(tiny_model(), 1))


def parameters_of(*layers: int) -> set[str]:
    starts = tuple(f"layer.{number}." for number in layers)
    return {f"backbone.{name}" for name, _ in tiny_model().backbone.named_parameters() if name.startswith(starts)}


@pytest.mark.parametrize(("count", "layers"), [(1, [1]), (2, [0, 1])])
def test_the_last_layers_train_whole(count: int, layers: list[int]) -> None:
    assert trainable(count) == parameters_of(*layers)


def test_the_embeddings_stay_frozen_with_all_layers_training() -> None:
    assert not any("embeddings" in name or "positions" in name for name in trainable(2))


def test_one_layer_is_the_default() -> None:
    assert LastLayersConfig().count == 1


def test_more_layers_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError) as caught:
        trainable(3)
    assert str(caught.value) == "count must be at most 2, the layers of the backbone, but is 3"


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_layer_trains(count: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        LastLayersConfig(count=count)
