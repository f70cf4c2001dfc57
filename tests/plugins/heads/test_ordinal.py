"""The numbers of the head for ordered classes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

import topwork
from topwork_plugins.heads.ordinal import OrdinalConfig, class_probabilities, corn_loss, predict_rank

LABELS = topwork.Classes(("bad", "so so", "good", "great"), ordered=True)


def outputs_for(ranks: list[int]) -> torch.Tensor:
    """Outputs (N, 3) from which these ranks are predicted."""
    return torch.where(torch.tensor(ranks)[:, None] > torch.arange(3), 4.0, -4.0)


def test_a_question_is_asked_of_the_texts_that_are_high_enough() -> None:
    outputs = torch.tensor([[0.3, 5.0, -5.0], [1.0, -0.5, 7.0]])
    sigmoid = [[1 / (1 + math.exp(-value)) for value in row] for row in outputs.tolist()]
    # the first text is of class 0: it is asked once; the second of class 1: it is asked twice
    wanted = -(math.log(1 - sigmoid[0][0]) + math.log(sigmoid[1][0]) + math.log(1 - sigmoid[1][1])) / 3
    assert corn_loss(outputs, torch.tensor([0, 1])).item() == pytest.approx(wanted, abs=1e-6)


def test_the_loss_divides_by_the_number_of_questions() -> None:
    head = OrdinalConfig().build(8, LABELS)
    assert head.denominator is not None
    assert head.denominator(torch.tensor([0, 1, 2, 3])).item() == 1 + 2 + 3 + 3


def test_the_rank_counts_the_classes_that_a_text_is_likely_above() -> None:
    assert predict_rank(outputs_for([0, 2, 3, 1])).tolist() == [0, 2, 3, 1]
    assert predict_rank(torch.tensor([[-1.0, 9.0, 9.0]])).tolist() == [0]


def test_probabilities_of_classes_are_what_the_questions_leave() -> None:
    found = class_probabilities(torch.tensor([[0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    assert OrdinalConfig().build(8, LABELS).decode(outputs_for([2])).labels == ["good"]


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@given(rows=ROWS)
def test_metrics_are_those_of_the_predicted_ranks(rows: list[tuple[int, int]]) -> None:
    predicted, true = ([row[side] for row in rows] for side in (0, 1))
    metrics = {metric.name: metric for metric in OrdinalConfig().build(8, LABELS).metrics}
    found = {
        name: metric.compute(outputs_for(predicted), torch.tensor(true)).mean().item()
        for name, metric in metrics.items()
    }
    assert found["mae"] == pytest.approx(sum(abs(one - other) for one, other in rows) / len(rows))
    assert found["accuracy"] == pytest.approx(sum(one == other for one, other in rows) / len(rows))
    if len({*predicted, *true}) > 1:
        wanted = cohen_kappa_score(true, predicted, weights="quadratic", labels=[0, 1, 2, 3])
        assert found["quadratic_kappa"] == pytest.approx(wanted, abs=1e-5)
    else:
        assert math.isnan(found["quadratic_kappa"])
    assert [name for name, metric in metrics.items() if not metric.greater_is_better] == ["mae"]


def test_classes_without_an_order_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        OrdinalConfig().build(8, topwork.Classes(("bad", "good")))
    assert str(caught.value) == (
        "an ordinal head needs ordered classes, and bad, good have no order; "
        "set labels.order of the task, from the lowest to the highest"
    )
