"""Figures are torch's, and their intervals are honest."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encoding_helpers import no_words
from topwork.building_blocks import class_metrics
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.evaluation.bootstrap import draw_rows
from topwork.engine.evaluation.estimates import EVALUATION_BATCH, estimate, estimates, join_rows, measure, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import PluginError
from topwork.interfaces.head import Head, Metric, WeightedMetric
from topwork.interfaces.labels import Classes
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig

CPU = torch.device("cpu")
ACCURACY, MACRO_F1, _ = class_metrics(2)
METRICS = ("loss", "accuracy", "macro_f1", "matthews")


def outputs_with(right: int, count: int) -> tuple[list[Tensor], Tensor]:
    """The outputs (N, 2) of one model and targets (N,) of which so many agree."""
    targets = torch.arange(count) % 2
    predicted = torch.where(torch.arange(count) < right, targets, 1 - targets)
    return [nn.functional.one_hot(predicted, 2).float()], targets


def test_the_ends_of_an_interval_stay_within_what_the_metric_can_be() -> None:
    targets = torch.arange(50) % 2
    seeds = [outputs_with(right, 50)[0][0] for right in (50, 44)]
    unbounded = replace(ACCURACY, bounds=(-math.inf, math.inf))
    assert estimate(unbounded, seeds, targets).high > 1
    found = estimate(ACCURACY, seeds, targets)
    assert (found.value, found.high) == (pytest.approx(0.94), 1.0)
    assert found.low == estimate(unbounded, seeds, targets).low


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(8, 10, 0.49016, 0.94332), (10, 10, 0.72247, 1.0), (0, 10, 0.0, 0.27753), (79, 100, 0.70015, 0.85834)],
)
def test_a_proportion_has_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    figure = estimate(ACCURACY, *outputs_with(right, count))
    assert figure.value == pytest.approx(right / count)
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)
    assert figure.rows == count


def mean_of_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


def total_of_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0].mean()


@pytest.mark.parametrize("metric", [Metric("each", mean_of_scores), Metric("total", total_of_scores)])
def test_any_other_metric_has_a_bootstrap_interval(metric: Metric) -> None:
    scores = torch.randn(400, 1)
    figure = estimate(metric, [scores], torch.zeros(400, dtype=torch.int64))
    half = 1.96 * float(scores.std()) / math.sqrt(400)  # what theory says of the mean of 400 scores
    assert figure.low == pytest.approx(figure.value - half, abs=0.1 * half)
    assert figure.high == pytest.approx(figure.value + half, abs=0.1 * half)


@pytest.mark.slow
def test_bootstrap_intervals_cover_what_is_true() -> None:
    true, covered = 0.8, 0
    for number in range(20):
        generator = torch.Generator().manual_seed(number)
        right = torch.rand(80, generator=generator) < true
        targets = torch.arange(80) % 2
        outputs = nn.functional.one_hot(torch.where(right, targets, 1 - targets), 2).float()
        figure = estimate(MACRO_F1, [outputs], targets)  # classes and errors are symmetric, so its true value is 0.8
        covered += figure.low <= true <= figure.high
    assert covered >= 17


def test_an_interval_holds_its_value() -> None:
    figure = estimate(MACRO_F1, *outputs_with(70, 90))
    assert figure.low < figure.value < figure.high


def test_the_same_rows_give_the_same_interval() -> None:
    (outputs,), targets = outputs_with(70, 90)
    assert estimate(MACRO_F1, [outputs], targets) == estimate(MACRO_F1, [outputs], targets)


def test_more_rows_give_a_narrower_interval() -> None:
    few, many = (estimate(MACRO_F1, *outputs_with(8 * count, 10 * count)) for count in (3, 60))
    assert many.high - many.low < (few.high - few.low) / 3


def heads() -> dict[str, Head]:
    return {
        "sentiment": BinaryConfig(hidden=()).build(16, Classes(("neg", "pos"))),
        "category": ClassificationConfig(hidden=()).build(16, Classes(("a", "b", "c"))),
    }


OUTPUTS = {"sentiment": torch.tensor([[0.3], [-2.0], [1.5]]), "category": torch.randn(3, 3)}
TARGETS = {"sentiment": torch.tensor([1, 0, 0]), "category": torch.tensor([2, 0, 1])}


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("sentiment", nn.BCEWithLogitsLoss()(OUTPUTS["sentiment"][:, 0], TARGETS["sentiment"].float())),
        ("category", nn.CrossEntropyLoss()(OUTPUTS["category"], TARGETS["category"])),
    ],
)
def test_the_loss_is_torchs(task: str, loss: Tensor) -> None:
    assert measure(heads(), OUTPUTS, TARGETS, device=CPU)[0][f"{task}/loss"] == pytest.approx(float(loss))


def test_every_metric_of_every_task_is_measured() -> None:
    figures = measure(heads(), OUTPUTS, TARGETS, device=CPU)[0]
    assert list(figures) == [f"{t}/{m}" for t in ("sentiment", "category") for m in METRICS]
    assert figures["sentiment/accuracy"] == pytest.approx(2 / 3)


def test_estimates_have_the_values_that_are_measured() -> None:
    figures, found = measure(heads(), OUTPUTS, TARGETS, device=CPU)[0], estimates(heads(), OUTPUTS, TARGETS)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {name: value for name, value in figures.items() if not name.endswith("loss")}
    )


def test_a_metric_that_is_not_a_number_is_shown_as_such() -> None:
    head = heads()["category"]
    undefined = Metric("undefined", lambda outputs, targets: torch.tensor(math.nan))
    tasks = {"category": Head(head.module, head.loss, head.decode, [undefined, *head.metrics])}
    found = estimates(tasks, OUTPUTS, TARGETS)
    assert list(found) == ["category/undefined", "category/accuracy", "category/macro_f1", "category/matthews"]
    assert math.isnan(found["category/undefined"].value)


@pytest.mark.parametrize("count", [1, EVALUATION_BATCH, EVALUATION_BATCH + 1])
def test_outputs_come_in_the_order_of_the_rows(
    tiny: MultiTaskModel, random_ids: Callable[..., Ragged], count: int
) -> None:
    tiny.set_trainable([])
    activations = encode(
        tiny.prefix,
        Sequences.of_texts(random_ids([3 + number % 5 for number in range(count)], vocabulary=50)),
        device=CPU,
    )
    outputs = outputs_of(
        tiny,
        Examples(
            activations,
            no_words(count),
            torch.arange(count)[:, None],
            targets={},
            labelled=dict.fromkeys(tiny.tasks, torch.ones(count, dtype=torch.bool)),
            reads=tiny.reads,
            source_sizes=(count,),
        ),
        device=CPU,
    )
    vectors, mask = activations.batch(torch.arange(count))
    with torch.no_grad():
        whole = tiny(vectors, mask, dict.fromkeys(tiny.tasks, torch.arange(count)))
    assert outputs.keys() == {"animal", "mood"}
    for task in outputs:
        torch.testing.assert_close(outputs[task], whole[task], atol=1e-6, rtol=0)


def test_measuring_uses_no_dropout_and_no_gradient(make: Callable[..., Any], train: Callable[..., Any]) -> None:
    trained = train(make(training={"epochs": 1}))
    trained.model.train()
    once = outputs_of(trained.model, trained.data["test"], device=CPU)
    trained.model.train()
    again = outputs_of(trained.model, trained.data["test"], device=CPU)
    assert all(torch.equal(once[task], again[task]) for task in once)
    assert not any(outputs.requires_grad for outputs in once.values())


def area(outputs: Tensor, targets: Tensor) -> Tensor:
    if len(targets.unique()) < 2:
        raise PluginError("only one class present")
    return outputs[:, 0].mean()


def test_a_metric_that_fails_on_resamples_keeps_its_value_and_says_on_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    targets = (torch.arange(31) == 0).long()
    found = estimate(Metric("area", area), [torch.ones(31, 2)], targets)
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    failed = sum(len(targets[rows].unique()) < 2 for rows in draw_rows(31, seed=0))
    assert f"no interval, because it failed on {failed} of 1,000 resamples of the rows: only one" in found.note
    assert f"metric area: {found.note}" in caplog.text


def test_a_metric_that_fails_on_the_rows_themselves_has_no_value() -> None:
    found = estimate(Metric("area", area), [torch.ones(5, 2)], torch.zeros(5, dtype=torch.int64))
    assert math.isnan(found.value)
    assert found.note == "only one class present"


def test_an_interval_of_combined_counts_is_that_of_measuring_each_resample() -> None:
    def count(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(outputs))
        hits = (outputs.argmax(1) == targets) & (targets == 1)
        return torch.stack([hits, targets == 1], dim=1).float()

    def share(outputs: Tensor, targets: Tensor) -> Tensor:
        counts = count(outputs, targets).sum(dim=0)
        return counts[0] / counts[1]

    calls: list[int] = []
    generator = torch.Generator().manual_seed(3)
    outputs, targets = torch.randn(50, 2, generator=generator), torch.randint(2, (50,), generator=generator)
    combined = Metric("recall", count, combine=lambda counts: counts[0] / counts[1])
    found = estimate(combined, [outputs], targets)
    assert len(calls) <= 2  # not once for each resample
    assert found == estimate(Metric("recall", share), [outputs], targets)
    assert found.low < found.value < found.high


def test_an_interval_of_a_weighted_metric_is_that_of_measuring_each_resample() -> None:
    def largest(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(outputs))
        return outputs.max()

    def weighted(outputs: Tensor, targets: Tensor) -> WeightedMetric:
        return lambda counts: outputs[counts > 0].max()

    calls: list[int] = []
    outputs, targets = torch.randn(50, 1, generator=torch.Generator().manual_seed(3)), torch.zeros(50)
    found = estimate(Metric("largest", largest, weighted=weighted), [outputs], targets)
    assert len(calls) <= 2  # not once for each resample
    assert found == estimate(Metric("largest", largest), [outputs], targets)
    assert found.low < found.value


def test_outputs_of_words_are_joined_with_zeros_behind_shorter_texts() -> None:
    joined = join_rows([torch.ones(2, 3, 2), torch.ones(1, 1, 2)])
    assert joined.shape == (3, 3, 2)
    assert joined[2].tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_metric_that_fails_where_texts_count_otherwise_keeps_its_value() -> None:
    def weighted(outputs: Tensor, targets: Tensor) -> WeightedMetric:
        raise PluginError("metric 'largest' failed")

    largest = Metric("largest", lambda outputs, targets: outputs.max(), weighted=weighted)
    found = estimate(largest, [torch.ones(5, 1)], torch.zeros(5))
    assert (found.value, found.note) == (1.0, "no interval, because metric 'largest' failed")
    assert math.isnan(found.low)
