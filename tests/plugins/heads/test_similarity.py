"""The numbers of the head for two texts."""

import pytest
import torch

import topwork
from topwork_plugins.heads.similarity import Cosine, SimilarityConfig

LABELS = topwork.Numbers(("score",), mean=(2.5,), scale=(1.5,))


def test_the_output_is_the_cosine_stretched_to_the_scale_of_the_labels() -> None:
    head = SimilarityConfig().build(2, LABELS)
    pairs = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    assert head.module(pairs)[:, 0].tolist() == pytest.approx([4.0, 1.0, -2.0])


def test_both_vectors_pass_through_one_projection() -> None:
    module = SimilarityConfig(projection=3).build(8, LABELS).module
    assert isinstance(module, Cosine)
    vectors = torch.randn(5, 8)
    torch.testing.assert_close(module(torch.stack([vectors, vectors], dim=1)), torch.full((5, 1), 4.0))
    swapped = torch.randn(5, 2, 8)
    torch.testing.assert_close(module(swapped), module(swapped.flip(1)))


def test_the_loss_is_of_errors_in_standard_deviations() -> None:
    head = SimilarityConfig().build(8, LABELS)
    assert head.loss(torch.tensor([[4.0]]), torch.tensor([[1.0]])).item() == pytest.approx(4.0)


def test_several_columns_are_refused() -> None:
    two = topwork.Numbers(("a", "b"), mean=(0.0, 0.0), scale=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"^a similarity head takes one number, but there are 2 columns$"):
        SimilarityConfig().build(8, two)
