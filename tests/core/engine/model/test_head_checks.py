"""What would go wrong with a head after hours of training is found before anything is encoded."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.model.building import build_head
from topwork.engine.model.checked_head import check_types
from topwork.engine.model.head_checks import MAX_TRIED_ROWS, check_parts, smallest_piece
from topwork.engine.model.seeding import seeded
from topwork.engine.preparation import prepare
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Decoded, Head, HeadConfig, HeadFigure, Metric
from topwork.interfaces.labels import Classes
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.heads.classification import ClassificationConfig

Make = Callable[..., Experiment]
cross_entropy = nn.functional.cross_entropy
WEIGHTS = torch.tensor([0.2, 5.0])


class Centred(nn.Module):
    """A linear layer that subtracts a running mean, which it keeps to itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.mean = torch.zeros(width)

    def forward(self, vectors: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * vectors.detach().mean(dim=0)
        outputs: Tensor = self.linear(vectors - self.mean)
        return outputs


class Views(nn.Module):
    """A linear layer whose weights are two views of one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(part) for part in torch.randn(width, 2).t().contiguous().chunk(2))

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.cat([vectors @ self.first.t(), vectors @ self.second.t()], dim=1)


class Writing(nn.Module):
    """A linear layer that writes into its input in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        outputs: Tensor = self.linear(vectors.mul_(3.0) if self.training else vectors)
        return outputs


class Complex(nn.Linear):
    """A linear layer with a buffer that cannot be saved."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)
        self.register_buffer("phases", torch.zeros(3, dtype=torch.complex64))


class Loud(nn.Linear):
    """A linear layer with dropout in eval mode too."""

    def forward(self, vectors: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(vectors, 0.5))


class Spoilt(nn.Linear):
    """A linear layer whose gradient cannot be computed."""

    def forward(self, vectors: Tensor) -> Tensor:
        return super().forward(vectors).exp().add_(1)


class Quiet(nn.Linear):
    """A linear layer that computes no gradient in eval mode."""

    def forward(self, vectors: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return super().forward(vectors)


@functools.cache
def kept(width: int) -> nn.Linear:
    return nn.Linear(width, 2)


def sample_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs + 0.1 * torch.randn_like(outputs), targets)


def numbers(outputs: Tensor) -> Decoded:
    decoded = Decoded([""] * len(outputs), outputs.softmax(1))
    decoded.labels[:] = [0] * len(outputs)  # type: ignore[list-item]  # the error
    return decoded


class OddConfig(HeadConfig):
    """A head with one error."""

    kind: Literal["odd"] = "odd"
    error: str = ""

    def build(self, width: int, labels: Classes) -> Head:
        scale = nn.Parameter(torch.ones(()))
        sound = decode_logits(labels)
        norm = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 2))
        errors: dict[str, dict[str, Any]] = {
            "detached": {"loss": lambda o, t: cross_entropy(o.detach(), t)},
            "own parameter": {"loss": lambda o, t: cross_entropy(scale * o, t)},
            "own state": {"module": Centred(width)},
            "weighted": {"loss": lambda o, t: cross_entropy(o, t, weight=WEIGHTS)},
            "weighted and said": {
                "loss": lambda o, t: cross_entropy(o, t, weight=WEIGHTS),
                "denominator": lambda t: WEIGHTS[t].sum(),
            },
            "norm": {"module": norm},
            "random loss": {"loss": sample_loss},
            "views": {"module": Views(width)},
            "writes": {"module": Writing(width)},
            "quiet": {"module": Quiet(width, 2)},
            "complex": {"module": Complex(width)},
            "lazy": {"module": nn.LazyLinear(2)},
            "loud": {"module": Loud(width, 2)},
            "spoilt": {"module": Spoilt(width, 2)},
            "kept": {"module": kept(width) if self.error == "kept" else None},
            "unknown label": {"decode": lambda o: Decoded(["maybe"] * len(o), o.softmax(1))},
            "float": {"metrics": [Metric("odd", lambda o, t: 0.5)]},  # type: ignore[arg-type, return-value]
            "bool": {"metrics": [Metric("odd", lambda o, t: o.argmax(1) == t)]},
            "column": {"metrics": [Metric("odd", lambda o, t: o[:, :1])]},
            "matrix": {"metrics": [Metric("odd", lambda o, t: o)]},
            "raises": {"metrics": [Metric("odd", lambda o, t: torch.tensor({}["no"]))]},
            "logits": {"decode": lambda o: Decoded(sound(o).labels, 100 * o)},
            "sums": {"decode": lambda o: Decoded(sound(o).labels, torch.full_like(o, 0.2))},
            "numbers": {"decode": numbers},
            "two labels": {"decode": lambda o: Decoded(["neg", "pos"], o.softmax(1))},
            "no table": {"figures": [HeadFigure("odd", lambda o, t, n: Figure(), lambda o, t, n: [])]},  # type: ignore[arg-type, return-value]
            "no figure": {"figures": [HeadFigure("odd", lambda o, t, n: None)]},  # type: ignore[arg-type, return-value]
            "exit": {"loss": lambda o, t: exit()},
        }
        parts: dict[str, Any] = {
            "module": nn.Linear(width, 2),
            "loss": cross_entropy,
            "decode": sound,
            "metrics": class_metrics(2),
        }
        return Head(**parts | errors.get(self.error, {}))


def experiment(make: Make, error: str, **training: Any) -> Experiment:
    return make(tasks={"sentiment": Task(label="sentiment", head=OddConfig(error=error))}, training=training)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("detached", "no gradient of the loss reaches the module's parameters"),
        ("own parameter", "use 1 tensors to train that are no parameters of the module"),
        ("own state", "its outputs cannot be had from its saved weights"),
        ("float", "metric 'odd' must give a tensor, got 0.5 of type float"),
        ("bool", r"metric 'odd' must give floating-point numbers, got torch.bool"),
        ("column", r"metric 'odd' must give one number, .* got shape \(7, 1\)"),
        ("matrix", r"metric 'odd' must give one number, .* got shape \(7, 2\)"),
        ("raises", "metric 'odd' failed: KeyError: 'no'"),
        ("logits", "probabilities must be from 0 to 1, but decode gives numbers from"),
        ("sums", "must sum to 1, but decode gives a sum of 0.4"),
        ("numbers", "decode must give labels that are texts, got 0 of type int"),
        ("two labels", "decode must give 1 labels for 1 text, got 2"),
        ("no figure", "figure 'odd' must give a matplotlib Figure, got None"),
        ("no table", "the table of figure 'odd' must be a text, got 0"),
        ("complex", r"phases must be a dense tensor of real numbers to be saved, got tensor\("),
        ("lazy", "weight has no shape yet; give lazy modules their sizes"),
        ("loud", "in eval mode its outputs change from call to call"),
        ("spoilt", "the gradient of the loss failed: RuntimeError: one of the variables needed"),
        ("kept", "two heads share the memory of weight; each build must make weights of its own"),
        ("unknown label", "decode must give labels that are classes, got 'maybe'"),
        ("exit", "the loss failed: SystemExit"),
    ],
)
def test_a_head_with_an_error_is_named_with_plugin_and_line(make: Make, error: str, message: str) -> None:
    who = r"^tasks\.sentiment\.head: plugin 'odd' of module \S*test_head_checks, \S*test_head_checks.py:\d+: "
    with pytest.raises(PluginError, match="(?s)" + who + ".*" + message):
        prepare(experiment(make, error))


def test_parts_that_are_something_else_are_told_together() -> None:
    head = OddConfig().build(3, Classes(("no", "yes")))
    changes = {"module": len, "metrics": head.metrics[0], "figures": None, "decode": "argmax"}
    for name, part in changes.items():
        object.__setattr__(head, name, part)  # where nothing checks types
    with pytest.raises(PluginError) as caught:
        check_types(head)
    assert [line[:40] for line in str(caught.value).splitlines()] == [
        "module must be a torch.nn.Module, got <b",
        "decode must be callable, got 'argmax'",
        "metrics must be a list of Metric, got Me",
        "figures must be a list of HeadFigure, go",
    ]


def test_a_loss_that_divides_by_class_weights_is_refused_in_pieces_unless_it_says_so(make: Make) -> None:
    prepare(experiment(make, "weighted"))
    with pytest.raises(PluginError, match=r"declare it as Head\.denominator; or set training\.accumulation: 1"):
        prepare(experiment(make, "weighted", accumulation=2))
    prepare(experiment(make, "weighted and said", accumulation=2))


@pytest.mark.parametrize("error", ["random loss", "views", "writes", "quiet"])
def test_trying_a_sound_head_leaves_no_trace(make: Make, error: str) -> None:
    tried = experiment(make, error, accumulation=2)
    head = prepare(tried).model.heads["sentiment"]
    with seeded(tried.training.seed, "head", "sentiment"):
        untried = OddConfig(error=error).build(16, Classes(("neg", "pos"))).module
    assert all(torch.equal(tensor, untried.state_dict()[name]) for name, tensor in head.state_dict().items())
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_metric_is_not_tried_where_some_class_has_no_text() -> None:
    def needs_all(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("some classes are missing")

    names = tuple(f"c{number}" for number in range(MAX_TRIED_ROWS + 1))
    labels, config = Classes(names), ClassificationConfig(hidden=())
    head = replace(build_head(config, 3, labels, where=""), metrics=[Metric("area", needs_all)])
    check_parts(head, config, 3, labels, where="")
    with pytest.raises(ValueError, match="some classes are missing"):
        check_parts(head, config, 3, Classes(names[:-1]), where="")


def test_a_head_that_draws_from_elsewhere_than_torchs_generator_is_refused(make: Make) -> None:
    class DrawingConfig(OddConfig):
        def build(self, width: int, labels: Classes) -> Head:
            head = super().build(width, labels)
            with torch.no_grad():
                next(head.module.parameters()).normal_(generator=elsewhere)
            return head

    elsewhere = torch.Generator()
    with pytest.raises(PluginError, match="built again from the same seed, its weight is another; draw initial"):
        prepare(make(tasks={"sentiment": Task(label="sentiment", head=DrawingConfig())}))


def test_what_a_head_writes_into_its_input_no_other_head_sees(make: Make, train: Callable[..., Any]) -> None:
    tasks = {name: Task(label="sentiment", head=OddConfig(error=error)) for name, error in (("a", "writes"), ("b", ""))}
    losses = [
        [epoch.metrics["training/b/loss"] for epoch in train(make(tasks=some, freeze=AllConfig())).fit.epochs]
        for some in (tasks, {"b": tasks["b"]})
    ]
    assert losses[0] == losses[1]


def test_a_norm_over_a_batch_is_refused_where_a_text_is_left_alone(make: Make) -> None:
    prepare(experiment(make, "norm", batch_size=8))
    with pytest.raises(PluginError, match="36 training rows in batches of 7 leave one alone"):
        prepare(experiment(make, "norm", batch_size=7))


def test_a_norm_over_a_batch_that_is_taken_in_pieces_is_warned_of(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    prepare(experiment(make, "norm", batch_size=8, accumulation=2))
    assert "its batch norm takes each of the 2 pieces of a batch for a batch of its own" in caplog.text


@pytest.mark.parametrize(
    ("rows", "batch_size", "accumulation", "smallest"), [(36, 8, 1, 4), (36, 7, 1, 1), (36, 8, 3, 1), (5, 8, 2, 2)]
)
def test_the_smallest_piece_is_counted(rows: int, batch_size: int, accumulation: int, smallest: int) -> None:
    assert smallest_piece(rows, batch_size, accumulation) == smallest
