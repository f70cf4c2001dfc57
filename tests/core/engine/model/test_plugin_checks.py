"""A plugin that fails or breaks its interface is named with the place of its settings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.model.encoder_checks import check_stages
from topwork.engine.model.plugin_checks import check_state, errors_of_plugins, is_out_of_memory, plugin_errors
from topwork.engine.preparation import prepare
from topwork.errors import PluginError, TopworkError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import Decoded, Head, HeadConfig, Metric
from topwork.interfaces.labels import Classes
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing import TinyBackboneConfig
from topwork.testing.tiny import TinyBackbone

Make = Callable[..., Experiment]
HERE = "tasks.sentiment.head"

#: A plugin, its package or module, and the line of its code, as messages name them.
PLUGIN = r"plugin '\w+' of module \S*test_plugin_checks, \S*test_plugin_checks.py:\d+"


class OddConfig(HeadConfig):
    """A head with one error."""

    kind: Literal["odd"] = "odd"
    error: str = ""

    def build(self, width: int, labels: Classes) -> Head:
        if self.error == "raises":
            raise KeyError("no such thing")
        if self.error == "returns nothing":
            return None  # type: ignore[return-value]  # the error
        parts: dict[str, Any] = {
            "module": nn.Linear(width, 2),
            "loss": nn.functional.cross_entropy,
            "decode": decode_logits(labels),
            "metrics": class_metrics(2),
        }
        errors: dict[str, dict[str, Any]] = {
            "flat outputs": {
                "module": nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)),
                "loss": lambda outputs, targets: outputs.sum(),
                "decode": lambda outputs: Decoded(["neg", "pos"], torch.full((2, 2), 0.5)),
            },
            "loss per text": {"loss": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")},
            "one label": {"decode": lambda outputs: Decoded(["neg"], outputs.softmax(dim=1))},
            "no classes": {"decode": lambda outputs: Decoded(["neg", "pos"], outputs[:, :1])},
            "called loss": {"metrics": [Metric("loss", lambda o, t: torch.tensor(42.0))]},
            "named twice": {"metrics": [*class_metrics(2), *class_metrics(2)]},
            "not for mlflow": {"metrics": [Metric("hits@1 (all)", lambda o, t: torch.tensor(1.0))]},
        }
        return Head(**parts | errors.get(self.error, {}))


class OddPooling(Pooling):
    """Says that it is wider than it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width + 1

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0]


class OddPoolingConfig(PoolingConfig):
    """Builds the odd pooling."""

    kind: Literal["odd"] = "odd"

    def build(self, width: int) -> Pooling:
        return OddPooling(width)


class ForgetfulConfig(FreezeStrategyConfig):
    """Forgets to return anything."""

    kind: Literal["forgetful"] = "forgetful"

    def trainable(self, model: Any, epoch: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("raises", "KeyError: 'no such thing'"),
        ("returns nothing", "build must give a Head, got None"),
        ("flat outputs", r"the module must give \(2, C\) for 2 texts, got \(2,\)"),
        ("loss per text", r"the loss must be one number, got shape \(2,\)"),
        ("one label", "decode must give 2 labels for 2 texts, got 1"),
        ("no classes", r"decode must give probabilities \(2, 2\), got \(2, 1\)"),
        ("called loss", "metric names must differ, must not be `loss`, and .* got loss"),
        ("named twice", "metric names must differ, .* got accuracy, macro_f1, matthews, accuracy, macro_f1"),
        ("not for mlflow", r"metric names must .* got hits@1 \(all\)"),
    ],
)
def test_a_head_that_breaks_its_interface_is_named(make: Make, error: str, message: str) -> None:
    tasks = {"sentiment": Task(label="sentiment", head=OddConfig(error=error))}
    with pytest.raises(PluginError, match=f"^{HERE}: {PLUGIN}: {message}"):
        prepare(make(tasks=tasks))


def test_a_head_without_fault_passes(make: Make) -> None:
    prepared = prepare(make(tasks={"sentiment": Task(label="sentiment", head=OddConfig())}))
    assert list(prepared.model.tasks) == ["sentiment"]


def test_a_pooling_of_another_width_than_it_says_is_refused(make: Make) -> None:
    with pytest.raises(
        PluginError, match=rf"^pooling: {PLUGIN}: a pooling of width 17 must give \(2, 17\) .*, got \(2, 16\)"
    ):
        prepare(make(pooling=OddPoolingConfig()))


def test_a_freeze_strategy_that_returns_nothing_is_named(make: Make) -> None:
    with pytest.raises(PluginError, match=f"^freeze: {PLUGIN}: TypeError"):
        prepare(make(freeze=ForgetfulConfig()))


class Faulty(TinyBackbone):
    """A backbone whose first stage holds other modules than it should."""

    def __init__(self, error: Literal["none", "two", "buffer"]) -> None:
        super().__init__(max_length=8)
        self.error = error
        if error == "buffer":
            self.register_buffer("scale", torch.ones(1))

    def stages(self) -> Sequence[Stage]:
        first, *others = super().stages()
        modules: dict[str, tuple[nn.Module, ...]] = {
            "none": (self.embeddings,),
            "two": (*first.modules, self.layer[1]),
            "buffer": tuple(first.modules),
        }
        return [Stage(first.name, modules[self.error], first.run, first.mixes_tokens), *others]


class FaultyConfig(TinyBackboneConfig):
    """Settings of the faulty backbone."""

    error: Literal["none", "two", "buffer"]

    def build(self) -> Backbone:
        return Faulty(self.error)


@pytest.mark.parametrize(
    ("error", "named"), [("none", "positions.weight"), ("two", "layer.1.ffn.0.weight"), ("buffer", "scale")]
)
def test_each_parameter_and_buffer_must_belong_to_exactly_one_stage(
    make: Callable[..., Experiment], error: Literal["none", "two", "buffer"], named: str
) -> None:
    with pytest.raises(PluginError, match=r"each parameter and buffer must belong to exactly one stage") as caught:
        prepare(make(backbone=FaultyConfig(error=error)))
    assert named in str(caught.value)
    assert "layer.0" not in str(caught.value)


def test_a_sound_backbone_passes_the_check_of_its_stages() -> None:
    check_stages(TinyBackbone(max_length=8))


def test_a_parameter_that_a_stage_lists_twice_is_counted_once() -> None:
    class Twice(TinyBackbone):
        def stages(self) -> Sequence[Stage]:
            first, *others = super().stages()
            return [Stage(first.name, (*first.modules, self.positions), first.run, False), *others]

    check_stages(Twice(max_length=8))


def test_an_exit_a_huge_message_and_torchs_settings_are_the_plugins_mistake() -> None:
    def leave() -> None:
        raise SystemExit

    def shout() -> None:
        raise RuntimeError("x" * 400_000)

    def change() -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    messages = []
    for call in (leave, shout, change):
        with pytest.raises(PluginError) as caught, plugin_errors(OddConfig(), "here"):
            call()
        messages.append(str(caught.value))
        assert len(messages[-1]) < 1500
    assert messages[0].endswith(": SystemExit")
    assert "default dtype from torch.float32 to torch.float64 and grad mode from True to False" in messages[2]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_message_that_begins_with_a_line_break_is_not_lost(error: type[Exception]) -> None:
    with pytest.raises(TopworkError, match="too narrow"), plugin_errors(OddConfig(), "here"):
        raise error("\ntoo narrow")


class Fragile(nn.Module):
    """A linear layer that fails after ten batches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.batches = 0

    def forward(self, vectors: Tensor) -> Tensor:
        self.batches += self.training
        if self.batches > 10:
            raise IndexError("index 10 is out of bounds")
        outputs: Tensor = self.linear(vectors)
        return outputs


class FragileConfig(OddConfig):
    """A head that fails in the midst of training."""

    def build(self, width: int, labels: Classes) -> Head:
        return replace(super().build(width, labels), module=Fragile(width))


def test_a_module_that_fails_in_the_midst_of_training_is_named(make: Make, train: Callable[..., Any]) -> None:
    experiment = make(tasks={"sentiment": Task(label="sentiment", head=FragileConfig())}, training={"epochs": 20})
    with pytest.raises(PluginError, match=rf"^{HERE}: {PLUGIN}: IndexError: index 10 is out of bounds$"):
        train(experiment)


def test_of_two_heads_of_one_kind_the_one_that_fails_is_named(make: Make, train: Callable[..., Any]) -> None:
    tasks = {"good": Task(label="sentiment", head=OddConfig()), "bad": Task(label="sentiment", head=FragileConfig())}
    with pytest.raises(PluginError, match=r"^tasks\.bad\.head: "):
        train(make(tasks=tasks, training={"epochs": 20}))


def test_an_error_that_arises_in_no_plugin_is_raised_as_it_is() -> None:
    backbone = TinyBackboneConfig()
    with pytest.raises(ZeroDivisionError), errors_of_plugins({"backbone": backbone}, lambda: "backbone"):
        _ = 1 / 0
    with pytest.raises(MemoryError), errors_of_plugins({HERE: OddConfig()}, lambda: HERE):
        raise MemoryError


def test_only_want_of_memory_is_taken_for_it() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


class WithExtraState(nn.Module):
    """A module that has more state than parameters and buffers."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None: ...


@pytest.mark.parametrize(
    "extra",
    [{"a": [1, 0.5, "x", None, torch.ones(2)], "b": {}}, torch.ones(2), 3, [[torch.tensor(1)]]],
    ids=["nested", "tensor", "number", "list"],
)
def test_extra_state_may_be_made_of_what_can_be_written(extra: object) -> None:
    check_state(WithExtraState(extra), extra=True)


@pytest.mark.parametrize(
    "extra",
    [{1: 2}, {"a": {1, 2}}, [object()], torch.ones(2).to_sparse(), 1j],
    ids=["key", "set", "object", "sparse", "complex"],
)
def test_extra_state_that_cannot_be_written_is_refused(extra: object) -> None:
    with pytest.raises(PluginError, match="get_extra_state must give numbers, texts and tensors in dicts and lists"):
        check_state(WithExtraState(extra), extra=True)


def test_of_what_a_model_is_saved_with_extra_state_is_a_tensor() -> None:
    with pytest.raises(PluginError, match="_extra_state must be a dense tensor of real numbers to be saved"):
        check_state(WithExtraState({"a": 1}))
