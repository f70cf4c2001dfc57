"""The numbers of the head for sets of labels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

import topwork
from topwork_plugins.heads.multilabel import MultilabelConfig, average_precision, best_thresholds, macro_f1, micro_f1

LABELS = topwork.LabelSet(("a", "b", "c"))
OUTPUTS = torch.tensor([[2.0, -0.5, -1.0], [-3.0, -2.0, -3.0], [1.0, 4.0, 0.5], [0.5, 0.2, 0.1]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

#: Outputs with many ties, and targets: up to 12 texts, and 2 to 4 labels.
TABLES = st.tuples(st.integers(1, 12), st.integers(2, 4)).flatmap(
    lambda shape: st.tuples(arrays(np.float32, shape, elements=st.integers(-3, 3).map(float)), arrays(np.bool_, shape))
)


def head(**settings: object) -> topwork.Head:
    return MultilabelConfig(hidden=(), **settings).build(8, LABELS)


def test_the_loss_is_binary_cross_entropy_over_labels_and_texts() -> None:
    wanted = nn.functional.binary_cross_entropy_with_logits(OUTPUTS, TARGETS)
    torch.testing.assert_close(head().loss(OUTPUTS, TARGETS), wanted)


def test_a_text_has_the_labels_whose_output_is_above_0() -> None:
    decoded = head().decode(OUTPUTS)
    assert list(decoded.labels) == [("a",), (), ("a", "b", "c"), ("a", "b", "c")]
    torch.testing.assert_close(decoded.probabilities, OUTPUTS.sigmoid())


def test_a_threshold_moves_the_outputs_and_neither_probabilities_nor_loss() -> None:
    plain, strict = head(threshold=0.5), head(threshold=0.9)
    strict.module.load_state_dict(plain.module.state_dict() | {"threshold": torch.full((3,), 0.9).logit()})
    vectors = torch.randn(5, 8)
    outputs, moved = plain.module(vectors), strict.module(vectors)
    torch.testing.assert_close(moved, outputs - torch.tensor(0.9).logit())
    torch.testing.assert_close(strict.decode(moved).probabilities, plain.decode(outputs).probabilities)
    targets = torch.tensor([[1.0, 0.0, 1.0]]).expand(5, 3)
    torch.testing.assert_close(strict.loss(moved, targets), plain.loss(outputs, targets))


def test_thresholds_are_tuned_and_kept_with_the_weights() -> None:
    tuned = head()
    vectors = torch.randn(200, 8)
    targets = (tuned.module(vectors).detach() > torch.tensor([0.4, -0.3, 0.0])).float()
    before = micro_f1(tuned.module(vectors), targets)
    assert tuned.tune is not None
    with torch.no_grad():
        tuned.tune(tuned.module(vectors), targets)
    assert before < micro_f1(tuned.module(vectors), targets) == 1.0
    again = head()
    again.module.load_state_dict(tuned.module.state_dict())
    assert torch.equal(again.module(vectors), tuned.module(vectors))


def test_a_threshold_that_is_given_is_not_tuned() -> None:
    assert head(threshold=0.3).tune is None


def f1_at(outputs: torch.Tensor, targets: torch.Tensor, threshold: float) -> float:
    return float(f1_score(targets.numpy(), (outputs > threshold).numpy(), zero_division=0.0))


@pytest.mark.slow
@given(table=TABLES)
def test_no_threshold_gives_a_better_f1_than_the_one_that_is_taken(table: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, targets = torch.from_numpy(table[0]), torch.from_numpy(table[1]).float()
    best = best_thresholds(outputs, targets)
    for label in range(outputs.shape[1]):
        if not targets[:, label].any():
            assert best[label] == 0
            continue
        reached = f1_at(outputs[:, label], targets[:, label], float(best[label]))
        others = [f1_at(outputs[:, label], targets[:, label], at + 0.5) for at in range(-5, 5)]
        assert reached >= max(others) - 1e-6


@given(table=TABLES)
def test_metrics_are_those_of_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    scores, true = table
    outputs, targets = torch.from_numpy(scores), torch.from_numpy(true).float()
    predicted = scores > 0
    if predicted.any() or true.any():
        assert float(micro_f1(outputs, targets)) == pytest.approx(f1_score(true, predicted, average="micro"))
        seen = predicted.any(axis=0) | true.any(axis=0)
        wanted = f1_score(true[:, seen], predicted[:, seen], average="macro", zero_division=0.0)
        if seen.sum() > 1:  # of one, scikit-learn makes two classes
            assert float(macro_f1(outputs, targets)) == pytest.approx(wanted, abs=1e-6)
    has = true.any(axis=0)
    if has.any():
        wanted = np.mean([average_precision_score(true[:, k], scores[:, k]) for k in has.nonzero()[0]])
        assert float(average_precision(outputs, targets)) == pytest.approx(wanted, abs=1e-6)


def test_metrics_of_no_label_are_not_a_number() -> None:
    outputs, targets = -torch.ones(3, 2), torch.zeros(3, 2)
    found = {metric.name: metric.compute(outputs, targets).mean() for metric in head().metrics}
    assert {name for name, value in found.items() if value.isnan()} == {"micro_f1", "macro_f1", "average_precision"}
    assert found["exact_match"] == 1.0


@pytest.mark.parametrize("threshold", [0.0, 1.0, "best"])
def test_a_threshold_is_a_probability(threshold: object) -> None:
    with pytest.raises(ValueError, match="threshold"):
        MultilabelConfig(threshold=threshold)
