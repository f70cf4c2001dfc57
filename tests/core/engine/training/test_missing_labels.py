"""Rows that lack labels train and measure the tasks that they have labels of, and no others."""

import dataclasses
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from joint_helpers import joint_of, joint_of_experiment
from labelled_texts import texts_with, two_headed_model
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.loop import measure_epoch, train_epoch
from topwork.engine.training.optimizer import make_optimizer
from topwork.engine.training.partial_epoch import PartialEpoch
from topwork.engine.training.state import TrainingState
from topwork.engine.training.stopping import make_stopping
from topwork.experiment.schema import Experiment
from topwork.experiment.source import SplitName
from topwork.interfaces.head import Head
from topwork.interfaces.labels import NO_LABEL, Classes, WordLabels
from topwork.testing.tiny import FirstToken, TinyBackbone
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.tagging import TaggingConfig

CPU = torch.device("cpu")
LOSS_WEIGHTS = {"animal": 1.0, "mood": 0.25}


double_model = cache(two_headed_model)


def row_by_row(model: MultiTaskModel, head: Head, examples: Examples, task: str) -> Tensor | None:
    """The mean loss of a task, written out: each labelled row alone, times its share."""
    rows = [row for row in range(examples.count) if examples.labelled[task][row]]
    losses, shares = [], []
    for row in rows:
        hidden, mask = examples.activations.batch(torch.tensor([row]))
        outputs = model.heads[task](model.pool(hidden, mask))
        target = examples.targets[task][row : row + 1]
        shares.append(1.0 if head.denominator is None else float(head.denominator(target)))
        losses.append(nn.functional.cross_entropy(outputs, target))
    if not sum(shares):
        return None
    return sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)


PATTERNS = st.integers(1, 9).flatmap(
    lambda count: st.fixed_dictionaries(
        {task: st.lists(st.booleans(), min_size=count, max_size=count) for task in LOSS_WEIGHTS}
    )
)


@pytest.mark.slow
@given(labelled=PATTERNS, accumulation=st.integers(1, 4))
def test_gradients_are_those_of_the_loss_written_out_row_by_row(
    labelled: dict[str, list[bool]], accumulation: int
) -> None:
    model, examples = double_model(), texts_with(labelled)
    model.zero_grad(set_to_none=True)
    losses = joint_of(model, LOSS_WEIGHTS, accumulation).backward(examples, torch.arange(examples.count)).losses
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    expected = {task: row_by_row(model, head, examples, task) for task, head in model.tasks.items()}
    for task, loss in expected.items():
        assert losses.get(task) == (None if loss is None else pytest.approx(loss.item(), abs=1e-10))
    if written := [LOSS_WEIGHTS[task] * loss for task, loss in expected.items() if loss is not None]:
        sum(written).backward()
    for name, parameter in model.named_parameters():
        assert (found[name] is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-10, rtol=0)


class Snapshots(Observer):
    """Copies the weights of each head, with what the optimizer keeps of them, after each step."""

    def __init__(self, model: MultiTaskModel, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.taken: dict[str, list[list[Tensor]]] = {task: [] for task in model.tasks}

    def advance(self, done: int) -> None:
        for task, head in self.model.heads.items():
            states = [self.optimizer.state[parameter] for parameter in head.parameters()]
            kept = [*head.parameters(), *(value for state in states for value in state.values())]
            self.taken[task].append([tensor.detach().clone() for tensor in kept])


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_a_head_without_labels_in_a_batch_is_not_changed_by_one_bit(make: Callable[..., Experiment]) -> None:
    experiment = make(training={"shuffle": False, "batch_size": 12})
    prepared = prepare(experiment)
    model, (phase,) = prepared.model, prepared.plan.phases
    examples = prepared.load_examples(phase, CPU, Observer())[0]["train"]
    assert examples.count == 36
    labelled = {"sentiment": torch.ones(36, dtype=torch.bool), "category": torch.arange(36) < 12}
    examples = dataclasses.replace(examples, labelled=labelled)
    optimizer = make_optimizer(model, prepared.weighting, phase, prepared.experiment.training)
    snapshots, joint = Snapshots(model, optimizer), joint_of_experiment(prepared)
    stopping = make_stopping(prepared.monitors, model.tasks, ["sentiment", "category"], prepared.plan.shapes)
    state = TrainingState(model, prepared.plan.shapes, prepared.weighting, stopping)
    for epoch in (1, 2):
        batches = prepared.sampling.batches_of(epoch, experiment.training)
        counts = {"steps_before": 3 * (epoch - 1), "steps_in_all": 6}
        settings = experiment.training
        train_epoch(joint, optimizer, examples, batches, settings, state, Checkpoints(), **counts, observer=snapshots)
        state.partial = PartialEpoch()
        state.epoch += 1
    category, sentiment = snapshots.taken["category"], snapshots.taken["sentiment"]
    assert len(category[0]) == 4 * len(list(model.heads["category"].parameters()))  # weights, two moments, a count
    assert [equal(*pair) for pair in pairwise(category)] == [True, True, False, True, True]
    assert [equal(*pair) for pair in pairwise(sentiment)] == [False] * 5


def with_gaps(make: Callable[..., Experiment], every: int) -> tuple[Any, dict[SplitName, Examples]]:
    """An experiment that is prepared, with examples of which one in so many has a category."""
    prepared = prepare(make())
    data, _ = prepared.load_examples(prepared.plan.phases[0], CPU, Observer())
    return prepared, {
        split: dataclasses.replace(
            examples,
            labelled=examples.labelled | {"category": torch.arange(examples.count) % every == 0},
        )
        for split, examples in data.items()
    }


def test_a_task_is_measured_on_the_rows_that_have_a_label_of_it(make: Callable[..., Experiment]) -> None:
    prepared, data = with_gaps(make, every=3)
    metrics, failures = measure_epoch(joint_of_experiment(prepared), {}, data)
    outputs = outputs_of(prepared.model, data["validation"], device=CPU)
    assert {task: len(found) for task, found in outputs.items()} == {"sentiment": 12, "category": 4}
    targets = data["validation"].targets["category"][::3]
    assert metrics["validation/category/loss"] == pytest.approx(
        float(nn.functional.cross_entropy(outputs["category"], targets)), abs=1e-6
    )
    assert metrics["validation/category/accuracy"] == (outputs["category"].argmax(1) == targets).float().mean()
    assert failures == {}


def test_a_task_without_validation_labels_is_not_measured_and_not_in_the_total(make: Callable[..., Experiment]) -> None:
    prepared, data = with_gaps(make, every=1)
    none = torch.zeros(12, dtype=torch.bool)
    data["validation"] = dataclasses.replace(
        data["validation"], labelled=data["validation"].labelled | {"category": none}
    )
    metrics, _ = measure_epoch(joint_of_experiment(prepared), {}, data)
    assert not [name for name in metrics if name.startswith("validation/category")]
    assert metrics["validation/loss"] == metrics["validation/sentiment/loss"]


def double_tagger() -> MultiTaskModel:
    """A model in float64 all of which trains, with a head for words beside one that reads the pooled vector."""
    torch.manual_seed(1)
    backbone = TinyBackbone(max_length=32)
    labels = WordLabels(("a", "b", "c"))
    heads = {
        "tag": TaggingConfig(hidden=(5,)).build(backbone.width, labels),
        "mood": ClassificationConfig(hidden=()).build(backbone.width, Classes(("no", "yes"))),
    }
    model = MultiTaskModel(backbone, FirstToken(), heads, {"tag": "words", "mood": "pooled"}).double().eval()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    return model


#: The classes of the words of each text, None where one has none; and whether it has a mood.
TAGGED = st.lists(
    st.tuples(st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=5), st.booleans()), min_size=1, max_size=7
)


@pytest.mark.slow
@given(rows=TAGGED, accumulation=st.integers(1, 4))
def test_gradients_of_words_are_those_of_the_loss_written_out_word_by_word(
    rows: list[tuple[list[int | None], bool]], accumulation: int
) -> None:
    model = double_tagger()
    lengths = torch.tensor([2 * len(words) + 1 for words, _ in rows])
    ids = Ragged(torch.randint(3, 50, (int(lengths.sum()),)), offsets_of(lengths))
    starts = [1 + 2 * word for words, _ in rows for word in range(len(words))]
    places = Ragged(torch.tensor(starts), offsets_of(torch.tensor([len(words) for words, _ in rows])))
    targets = torch.full((len(rows), 5), NO_LABEL)
    for row, (words, _) in zip(targets, rows, strict=True):
        row[: len(words)] = torch.tensor([NO_LABEL if word is None else word for word in words])
    examples = Examples(
        ids,
        places,
        torch.arange(len(rows))[:, None],
        {"tag": targets, "mood": torch.arange(len(rows)) % 2},
        {"tag": (targets != NO_LABEL).any(1), "mood": torch.tensor([mood for _, mood in rows])},
        {"tag": "words", "mood": "pooled"},
        (len(rows),),
    )
    weights, every = {"tag": 0.5, "mood": 1.0}, torch.arange(len(rows))
    joint_of(model, weights, accumulation).backward(examples, every)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    losses: dict[str, list[Tensor]] = {"tag": [], "mood": []}
    for number, (words, mood) in enumerate(rows):
        token_ids, mask = ids.batch(torch.tensor([number]))
        hidden = model.backbone(token_ids, mask)
        for place, word in enumerate(words):
            if word is not None:
                one = hidden[:, 1 + 2 * place][:, None]
                outputs = model.heads["tag"](one, torch.ones(1, 1, dtype=torch.bool))[:, 0]
                losses["tag"].append(nn.functional.cross_entropy(outputs, torch.tensor([word])))
        if mood:
            outputs = model.heads["mood"](model.pooling(hidden, mask))
            losses["mood"].append(nn.functional.cross_entropy(outputs, torch.tensor([number % 2])))
    if written := [weights[task] * torch.stack(of_task).mean() for task, of_task in losses.items() if of_task]:
        sum(written).backward()  # type: ignore[union-attr]  # the sum of some tensors is one
    for name, parameter in model.named_parameters():
        assert (found[name] is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-10, rtol=0)
