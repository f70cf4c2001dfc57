"""What would go wrong with a head after hours of training is found before anything is encoded."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.model.head_checks import smallest_piece
from topwork.engine.preparation import prepare
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Classes, Decoded, Head, HeadConfig, HeadFigure, Metric

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
        ("exit", "the loss failed: SystemExit"),
    ],
)
def test_a_head_with_an_error_is_named_with_plugin_and_line(make: Make, error: str, message: str) -> None:
    who = r"^tasks\.sentiment\.head: plugin 'odd' of module \S*test_head_checks, \S*test_head_checks.py:\d+: "
    with pytest.raises(PluginError, match=who + ".*" + message):
        prepare(experiment(make, error))


def test_a_loss_that_divides_by_class_weights_is_refused_in_pieces_unless_it_says_so(make: Make) -> None:
    prepare(experiment(make, "weighted"))
    with pytest.raises(PluginError, match=r"declare it as Head\.denominator; or set training\.accumulation: 1"):
        prepare(experiment(make, "weighted", accumulation=2))
    prepare(experiment(make, "weighted and said", accumulation=2))


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
