"""The training loop does what the plan says, the same way each time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from joint_helpers import joint_of_experiment
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Epoch, Observer
from topwork.engine.preparation import prepare
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.loop import NotFiniteError, check_finite, divergence_error
from topwork.errors import ResourceError, TrainingError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Head
from topwork.interfaces.labels import Classes
from topwork.testing.tiny import tiny_model
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]


def weights_of(model: MultiTaskModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@dataclass
class Watcher(Observer):
    """Notes what it is told, the weights after each epoch, and the norm of the gradients in each step."""

    model: Any = None
    phases: list[tuple[str, int]] = field(default_factory=list)
    done: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def begin(self, phase: str, total: int) -> None:
        self.phases.append((phase, total))

    def advance(self, done: int) -> None:
        self.done += done
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.weights.append(weights_of(self.model))


@pytest.mark.parametrize("freeze", [None, AllConfig(), NoneConfig()])
def test_the_same_seed_gives_the_same_weights(make: Make, train: Train, freeze: Any) -> None:
    experiment = make(**{} if freeze is None else {"freeze": freeze})
    assert same(weights_of(train(experiment).model), weights_of(train(experiment).model))


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(make: Make, train: Train) -> None:
    experiment = make()
    first = weights_of(train(experiment).model)
    torch.rand(7)
    assert same(first, weights_of(train(experiment).model))


def test_another_seed_gives_other_weights(make: Make, train: Train) -> None:
    first, other = (weights_of(train(make(training={"seed": seed})).model) for seed in (0, 1))
    assert not same(first, other)


def test_training_draws_nothing_from_the_global_generator(make: Make, train: Train) -> None:
    before = torch.get_rng_state()
    train(make())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_lowers_the_loss(make: Make, train: Train) -> None:
    optimizer = HeadsAndBackboneConfig(heads_lr=0.03, backbone_lr=0.01)
    experiment = make(pooling=MeanConfig(), freeze=NoneConfig(), optimizer=optimizer, training={"epochs": 12})
    epochs = train(experiment).fit.epochs
    assert epochs[-1].metrics["training/loss"] < 0.7 * epochs[0].metrics["training/loss"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.reliability("B35")
def test_frozen_parameters_do_not_change_by_one_bit(make: Make, train: Train, pooling: str) -> None:
    experiment = make(**{"pooling": MeanConfig()} if pooling == "mean" else {})
    before = weights_of(prepare(experiment).model)
    trained = train(experiment)
    after = weights_of(trained.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for group in trained.prepared.plan.phases[0].groups for name in group.parameters}


def test_early_stopping_returns_to_the_best_epoch(make: Make, train: Train) -> None:
    watcher = Watcher()
    training = {"epochs": 50, "patience": 3, "monitor": "validation/loss"}
    optimizer = HeadsAndBackboneConfig(heads_lr=0.1, backbone_lr=0.05)
    trained = train(make(training=training, optimizer=optimizer), watcher)
    losses = [epoch.metrics["validation/loss"] for epoch in trained.fit.epochs]
    best = losses.index(min(losses)) + 1
    assert trained.fit.best_epoch == best
    assert len(losses) == best + 3 < 50
    assert same(weights_of(trained.model), watcher.weights[best - 1])
    assert not same(weights_of(trained.model), watcher.weights[-1])


def test_a_metric_that_grows_better_is_watched_upwards(make: Make, train: Train) -> None:
    training = {"epochs": 12, "patience": 12, "monitor": "validation/category/accuracy"}
    outcome = train(make(training=training)).fit
    figures = [epoch.metrics["validation/category/accuracy"] for epoch in outcome.epochs]
    assert min(figures) < max(figures)
    assert outcome.best_epoch == figures.index(max(figures)) + 1


def test_without_patience_all_epochs_run_and_the_last_is_kept(make: Make, train: Train) -> None:
    watcher = Watcher()
    optimizer = HeadsAndBackboneConfig(heads_lr=0.1, backbone_lr=0.05)
    trained = train(make(training={"epochs": 9, "monitor": "validation/loss"}, optimizer=optimizer), watcher)
    assert len(trained.fit.epochs) == trained.fit.best_epoch == 9
    assert same(weights_of(trained.model), watcher.weights[-1])
    losses = [epoch.metrics["validation/loss"] for epoch in trained.fit.epochs]
    assert losses.index(min(losses)) + 1 < 9


class FailingConfig(ClassificationConfig):
    """A head whose loss is not a number from some training step on."""

    after: int

    def build(self, width: int, labels: Classes) -> Head:
        head, steps = super().build(width, labels), 0

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal steps
            steps += outputs.requires_grad
            return head.loss(outputs, targets) * (math.nan if steps > self.after else 1.0)

        return Head(head.module, loss, head.decode, head.metrics)


@pytest.mark.reliability("A15")
def test_a_loss_that_is_not_a_number_ends_training_with_the_best_weights(make: Make, train: Train) -> None:
    tasks = {
        "sentiment": Task(label="sentiment", head=BinaryConfig(hidden=())),
        "category": Task(label="category", head=FailingConfig(hidden=(), after=3 * 5 + 1)),
    }
    watcher = Watcher()
    training = {"epochs": 9, "patience": 9, "monitor": "training/loss"}
    with pytest.raises(TrainingError) as caught:
        train(make(tasks=tasks, training=training), watcher)
    losses = [epoch.metrics["training/loss"] for epoch in watcher.epochs]
    best = losses.index(min(losses)) + 1
    assert len(losses) == 3
    assert caught.value.kept_epoch == best
    assert str(caught.value) == (
        "training diverged in epoch 4, step 2: category is nan; learning rates: heads 0.01, backbone 0.001; "
        f"try lower rates or training.clip_norm; the weights of epoch {best} are kept"
    )
    assert same(weights_of(watcher.model), watcher.weights[best - 1])


@pytest.mark.reliability("A16")
def test_a_rate_that_is_far_too_high_ends_training(make: Make, train: Train) -> None:
    optimizer = HeadsAndBackboneConfig(heads_lr=1e30, backbone_lr=1e-3)
    with pytest.raises(
        TrainingError, match=r"diverged in epoch 1, step 2: .*(sentiment|category) is (nan|inf)"
    ) as caught:
        train(make(optimizer=optimizer))
    assert "learning rates: heads 1e+30, backbone 0.001" in str(caught.value)
    assert str(caught.value).endswith("no epoch was finished, so no weights are kept")
    assert caught.value.kept_epoch == 0


def test_a_weight_that_is_not_finite_ends_training_too(make: Make, train: Train) -> None:
    optimizer = HeadsAndBackboneConfig(heads_lr=1e39, backbone_lr=0.0)
    training = {"batch_size": 36, "epochs": 1, "monitor": "training/loss"}
    with pytest.raises(TrainingError, match="diverged in epoch 1, step 1"):
        train(make(optimizer=optimizer, training=training))


@pytest.mark.parametrize(("loss", "weight"), [(math.nan, 0.0), (0.5, math.inf), (math.nan, math.nan)])
def test_a_loss_or_a_weight_that_is_not_finite_is_found(loss: float, weight: float) -> None:
    model = tiny_model()
    metrics = {"training/loss": loss, "validation/accuracy": math.nan}
    with torch.no_grad():
        next(model.heads.parameters()).flatten()[0] = weight
    with pytest.raises(NotFiniteError) as caught:
        check_finite(model, metrics, step=4)
    assert caught.value.values.keys() == ({"training/loss"} if math.isnan(loss) else set())
    assert caught.value.step == 4


def test_a_metric_that_is_not_a_number_ends_no_training() -> None:
    check_finite(tiny_model(), {"training/loss": 0.5, "validation/accuracy": math.nan}, step=1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mood": math.nan, "genre": math.inf, "author": 0.1}, "mood is nan, genre is inf"),
        ({"mood": 0.1}, "a weight is not finite"),
    ],
)
def test_all_that_is_not_finite_is_told(values: dict[str, float], told: str) -> None:
    optimizer = torch.optim.SGD([{"name": "all", "params": [torch.zeros(1)], "lr": 0.5}])
    message = str(divergence_error(NotFiniteError(values, step=3), 2, optimizer, best_epoch=1))
    assert message.startswith(f"training diverged in epoch 2, step 3: {told}; learning rates: all 0.5; ")


def gradients_of(experiment: Experiment, rows: int = 7) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients and losses of one batch, without dropout."""
    prepared = prepare(experiment)
    data, _ = prepared.load_examples(prepared.plan.phases[0], torch.device("cpu"), Observer())
    model = prepared.model.eval()
    losses = joint_of_experiment(prepared).backward(data["train"], torch.arange(rows)).losses
    named = model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}, losses


@pytest.mark.parametrize("pieces", [2, 3, 7, 8])  # with 7 every text stands alone, without padding
def test_a_batch_in_pieces_gives_the_same_step(make: Make, pieces: int) -> None:
    whole, losses = gradients_of(make(pooling=MeanConfig()))
    parts, part_losses = gradients_of(make(pooling=MeanConfig(), training={"accumulation": pieces}))
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=0)
    assert part_losses == pytest.approx(losses, abs=1e-6)


def test_training_in_pieces_gives_nearly_the_same_weights(make: Make, train: Train) -> None:
    whole = weights_of(train(make(freeze=AllConfig())).model)
    parts = weights_of(train(make(freeze=AllConfig(), training={"accumulation": 3})).model)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-4, rtol=0) for name in whole)


def test_the_weight_of_a_loss_scales_its_gradients(make: Make) -> None:
    tasks = make().tasks
    heavy = tasks | {"category": tasks["category"].model_copy(update={"loss_weight": 3.0})}
    once, losses = gradients_of(make(tasks=tasks))
    thrice, heavy_losses = gradients_of(make(tasks=heavy))
    torch.testing.assert_close(thrice["heads.category.0.weight"], 3 * once["heads.category.0.weight"])
    torch.testing.assert_close(thrice["heads.sentiment.0.weight"], once["heads.sentiment.0.weight"])
    assert losses == heavy_losses


def test_the_total_loss_is_the_weighted_sum(make: Make, train: Train) -> None:
    tasks = make().tasks
    tasks = tasks | {"category": tasks["category"].model_copy(update={"loss_weight": 0.25})}
    metrics = train(make(tasks=tasks)).fit.epochs[-1].metrics
    for split in ("training", "validation"):
        parts = metrics[f"{split}/sentiment/loss"] + 0.25 * metrics[f"{split}/category/loss"]
        assert metrics[f"{split}/loss"] == pytest.approx(parts)


@pytest.mark.slow
def test_clipping_bounds_the_norm_of_the_gradients(make: Make, train: Train) -> None:
    free, clipped = Watcher(), Watcher()
    train(make(), free)
    train(make(training={"clip_norm": 0.05}), clipped)
    assert min(free.norms) > 0.06
    assert max(clipped.norms) <= 0.05 * (1 + 1e-5)


def test_gradients_under_the_bound_are_not_clipped(make: Make, train: Train) -> None:
    free = weights_of(train(make()).model)
    assert same(free, weights_of(train(make(training={"clip_norm": 1e6})).model))


@pytest.mark.slow
def test_bfloat16_trains_and_leaves_plain_float32_behind(make: Make, train: Train) -> None:
    trained = train(make(training={"precision": "bfloat16"}))
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}
    assert not same(weights_of(trained.model), weights_of(train(make()).model))
    fresh = prepare(make()).model
    fresh.load_state_dict(trained.model.state_dict())
    rows = trained.data["test"]
    outputs, plain = (outputs_of(model, rows, device=torch.device("cpu")) for model in (trained.model, fresh))
    assert all(torch.equal(outputs[task], plain[task]) for task in outputs)


def test_an_observer_hears_of_every_step_and_epoch(make: Make, train: Train) -> None:
    watcher = Watcher()
    started = perf_counter()
    trained = train(make(training={"epochs": 3}), watcher)
    seconds = perf_counter() - started
    assert watcher.phases == [("epoch 1", 5), ("epoch 2", 5), ("epoch 3", 5)]
    assert watcher.done == 15
    assert watcher.epochs == trained.fit.epochs
    assert sum(36 / epoch.texts_per_second for epoch in watcher.epochs) < seconds


class CountingConfig(ClassificationConfig):
    """A head whose loss is the number of rows it sees, so that averages can be checked."""

    kind: Literal["classification"] = "classification"

    def build(self, width: int, labels: Classes) -> Head:
        head = super().build(width, labels)

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return 0 * outputs.sum() + len(targets)

        return Head(head.module, loss, head.decode, head.metrics)


def test_the_training_loss_is_the_mean_over_rows(make: Make, train: Train) -> None:
    tasks = {"category": Task(label="category", head=CountingConfig(hidden=()))}
    metrics = train(make(tasks=tasks, training={"epochs": 1})).fit.epochs[0].metrics
    assert metrics["training/category/loss"] == pytest.approx((4 * 8 * 8 + 4 * 4) / 36)


WEIGHTS = torch.tensor([0.2, 5.0, 1.0])


class WeightedConfig(ClassificationConfig):
    """A head whose loss divides by the weights of the classes, and says so."""

    def build(self, width: int, labels: Classes) -> Head:
        head = super().build(width, labels)
        return replace(
            head,
            loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets, weight=WEIGHTS),
            denominator=lambda targets: WEIGHTS[targets].sum(),
        )


@pytest.mark.parametrize("pieces", [2, 7])
def test_a_batch_in_pieces_gives_the_same_step_where_the_loss_divides_by_class_weights(make: Make, pieces: int) -> None:
    tasks = {"category": Task(label="category", head=WeightedConfig(hidden=(8,)))}
    whole, losses = gradients_of(make(tasks=tasks))
    parts, part_losses = gradients_of(make(tasks=tasks, training={"accumulation": pieces}))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=0)
    assert part_losses == pytest.approx(losses, abs=1e-6)


class GreedyConfig(FailingConfig):
    """Asks for more memory than there is after some steps."""

    def build(self, width: int, labels: Classes) -> Head:
        head, steps = ClassificationConfig.build(self, width, labels), 0

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal steps
            steps += outputs.requires_grad
            if steps > self.after:
                torch.empty(2**55, dtype=torch.uint8)
            return head.loss(outputs, targets)

        return Head(head.module, loss, head.decode, head.metrics)


@pytest.mark.reliability("A17")
def test_where_memory_runs_out_it_is_said_when_and_what_needs_less(make: Make, train: Train, tmp_path: Path) -> None:
    tasks = {"category": Task(label="category", head=GreedyConfig(hidden=(), after=5 + 2))}
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with pytest.raises(ResourceError) as caught:
        train(make(tasks=tasks), checkpoints=Checkpoints(folder, 1e-6))
    said = str(caught.value)
    assert said.startswith("memory ran out in epoch 2 after 2 steps, with batches of 8 rows: RuntimeError: ")
    assert "; free some, or train anew with more pieces (training.accumulation), smaller batches" in said
    assert [path.name for path in folder.paths()] == ["000002-000000002", "000002-000000001"]
