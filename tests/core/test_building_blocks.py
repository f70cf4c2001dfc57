"""What heads are built from."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import nn

import topwork
from topwork.building_blocks import matthews

FIVE_CLASSES = 5
MIN_ROWS = 64


@pytest.mark.parametrize(
    ("hidden", "shapes"),
    [((), [(3, 8)]), ((5,), [(5, 8), (3, 5)]), ((100, 50), [(100, 8), (50, 100), (3, 50)])],
    ids=["linear", "one hidden layer", "two hidden layers"],
)
def test_a_perceptron_has_the_layers_that_were_asked_for(
    hidden: tuple[int, ...], shapes: list[tuple[int, int]]
) -> None:
    linear = [module for module in topwork.mlp(8, 3, hidden=hidden) if isinstance(module, nn.Linear)]
    assert [tuple(module.weight.shape) for module in linear] == shapes


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [("relu", nn.ReLU, torch.relu), ("gelu", nn.GELU, nn.functional.gelu), ("tanh", nn.Tanh, torch.tanh)],
)
def test_a_perceptron_computes_what_its_parts_compute(
    name: topwork.Activation, module: type[nn.Module], function: object
) -> None:
    perceptron = topwork.mlp(4, 2, hidden=[3], activation=name)
    first, activation, last = perceptron
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert isinstance(activation, module)
    assert callable(function)
    torch.testing.assert_close(perceptron(vectors), last(function(first(vectors))))


def test_each_activation_is_followed_by_dropout() -> None:
    perceptron = topwork.mlp(4, 2, hidden=[3, 3], activation="tanh", dropout=0.25)
    followers = [after for before, after in pairwise(perceptron) if isinstance(before, nn.Tanh)]
    assert [follower.p for follower in followers if isinstance(follower, nn.Dropout)] == [0.25, 0.25]


def test_no_dropout_means_no_dropout_module() -> None:
    assert not any(isinstance(module, nn.Dropout) for module in topwork.mlp(4, 2, hidden=[3], dropout=0.0))


@given(st.lists(st.tuples(st.integers(0, FIVE_CLASSES - 1), st.integers(0, FIVE_CLASSES - 1)), min_size=1, max_size=40))
def test_macro_f1_equals_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, targets = torch.tensor(pairs).unbind(dim=1)
    wanted = f1_score(targets.numpy(), predicted.numpy(), average="macro", zero_division=0.0)
    score = topwork.macro_f1(predicted, targets, FIVE_CLASSES)
    assert score.shape == ()
    assert score.item() == pytest.approx(wanted, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, FIVE_CLASSES - 1), st.integers(0, FIVE_CLASSES - 1)), min_size=1, max_size=40))
def test_the_matthews_correlation_equals_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, targets = torch.tensor(pairs).unbind(dim=1)
    score = matthews(predicted, targets, FIVE_CLASSES)
    assert score.shape == ()
    several = len({*predicted.tolist(), *targets.tolist()}) > 1  # of one, scikit-learn warns
    wanted = matthews_corrcoef(targets.numpy(), predicted.numpy()) if several else 0.0
    assert score.item() == pytest.approx(wanted, abs=1e-6)


def test_macro_f1_weights_rare_classes_like_frequent_ones() -> None:
    targets = torch.tensor([0] * 99 + [1])
    always_the_first = torch.zeros(100, dtype=torch.int64)
    assert topwork.macro_f1(always_the_first, targets, 2).item() == pytest.approx(0.5 * (2 * 99 / 199))


def test_class_metrics_are_accuracy_by_text_macro_f1_and_matthews_correlation() -> None:
    outputs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    targets = torch.tensor([0, 1, 2, 1])
    accuracy, macro_f1, correlation = metrics = topwork.class_metrics(3)
    assert [metric.name for metric in metrics] == ["accuracy", "macro_f1", "matthews"]
    assert all(metric.greater_is_better for metric in metrics)
    assert correlation.compute(outputs, targets).item() == pytest.approx(matthews_corrcoef([0, 1, 2, 1], [0, 1, 2, 2]))
    assert accuracy.compute(outputs, targets).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert macro_f1.compute(outputs, targets).item() == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_class_metrics_follow_the_prediction_they_are_given() -> None:
    accuracy, *_ = topwork.class_metrics(2, predict=lambda outputs: (outputs[:, 0] > 0).long())
    assert accuracy.compute(torch.tensor([[-1.0], [2.0]]), torch.tensor([1, 1])).tolist() == [0.0, 1.0]


def test_logits_are_decoded_to_the_label_of_the_largest() -> None:
    decoded = topwork.decode_logits(topwork.Classes(("a", "b", "c")))(torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]))
    assert decoded.labels == ["b", "a"]
    torch.testing.assert_close(decoded.probabilities, torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]).softmax(dim=1))


@given(st.integers(1, 200))
def test_a_step_for_each_row_sees_at_least_64_rows_and_gives_as_many_as_there_are(count: int) -> None:
    rows, seen = torch.arange(3.0 * count).view(count, 1, 3), []

    def double(some: torch.Tensor) -> torch.Tensor:
        seen.append(some)
        return 2 * some

    assert torch.equal(topwork.rowwise(double, rows), 2 * rows)
    (some,) = seen
    assert len(some) == max(count, MIN_ROWS)
    assert torch.equal(some[:count], rows)
    assert torch.equal(some[count:], rows[:1].expand(len(some) - count, 1, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 63, 64, 65, 130])
def test_a_row_does_not_depend_on_how_many_there_are(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    linear, rows = nn.Linear(384, 384), torch.randn(130, 1, 384, generator=generator)
    with torch.no_grad():
        together = topwork.rowwise(linear, rows)
        assert torch.equal(topwork.rowwise(linear, rows[:count]), together[:count])
        assert torch.equal(topwork.rowwise(linear, rows[-count:]), together[-count:])


def test_a_row_does_not_depend_on_its_layout_in_memory() -> None:
    whole = torch.randn(70, 9, 384, generator=torch.Generator().manual_seed(0))
    linear = nn.Linear(384, 384)
    with torch.no_grad():
        for rows in (whole[:, :1], whole[:5, :1]):
            assert torch.equal(topwork.rowwise(linear, rows), topwork.rowwise(linear, rows.contiguous()))
