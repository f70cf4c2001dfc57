"""The plan says what will happen, and refuses what does not add up."""

import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor

from topwork.engine.model.plan import Plan
from topwork.engine.model.prefix import Cut
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.schema import Experiment
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.model import Model
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig, ParameterGroup
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.optimizer_groupings.uniform import UniformConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]
LAST_FFN = AllExceptConfig(patterns=("layer.1.ffn", "layer.1.output_layer_norm"))


def line_of(config: type) -> int:
    return inspect.getsourcelines(config)[1]


def plan_of(experiment: Experiment) -> Plan:
    return prepare(experiment).plan


class FaultyConfig(OptimizerGroupingConfig):
    """A grouping that does not divide what trains."""

    kind: Literal["faulty"] = "faulty"
    errors: tuple[str, ...]

    def groups(self, model: Model) -> Sequence[ParameterGroup]:
        names = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        frozen = tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
        groups = [ParameterGroup("all", names, 1e-3, 0.0)]
        if "left out" in self.errors:
            groups = [ParameterGroup("all", names[2:], 1e-3, 0.0)]
        if "twice" in self.errors:
            groups.append(ParameterGroup("again", names[-1:], 1e-3, 0.0))
        if "twice in one" in self.errors:
            groups = [ParameterGroup("all", (*names, names[-1]), 1e-3, 0.0)]
        if "frozen" in self.errors:
            groups.append(ParameterGroup("frozen", frozen[:1], 1e-3, 0.0))
        if "unknown" in self.errors:
            groups.append(ParameterGroup("unknown", ("heads.nobody.weight",), 1e-3, 0.0))
        if "one name" in self.errors:
            groups = [ParameterGroup("all", names[:1], 1e-3, 0.0), ParameterGroup("all", names[1:], 1e-3, 0.0)]
        if "negative rate" in self.errors:
            groups = [ParameterGroup("all", names, -1e-3, 0.0)]
        if "rate not a number" in self.errors:
            groups = [ParameterGroup("all", names, math.nan, 0.0)]
        if "generator" in self.errors:
            object.__setattr__(groups[0], "parameters", (name for name in names))  # where nothing checks types
        if "negative decay" in self.errors:
            groups = [ParameterGroup("all", names, 1e-3, -1.0)]
        return groups


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "left out",
            "in no group: backbone.layer.1.ffn.0.bias, backbone.layer.1.ffn.0.weight (2 in all)",
        ),
        ("twice", "in several groups: heads.category.2.bias (1 in all)"),
        ("twice in one", "in several groups: heads.category.2.bias (1 in all)"),
        ("frozen", "in a group but frozen or unknown: backbone.embeddings.weight (1 in all)"),
        ("unknown", "in a group but frozen or unknown: heads.nobody.weight (1 in all)"),
        ("one name", "group names must differ, but are all, all"),
    ],
)
def test_a_grouping_must_divide_what_trains(make: Make, error: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        plan_of(make(optimizer=FaultyConfig(errors=(error,))))
    assert str(caught.value).startswith("optimizer: plugin 'faulty' of module ")
    assert str(caught.value).endswith(f"test_plan.py:{line_of(FaultyConfig)}: {message}")


def test_names_that_can_be_read_only_once_are_kept(make: Make) -> None:
    (group,) = plan_of(make(optimizer=FaultyConfig(errors=("generator",)))).phases[0].groups
    assert group == plan_of(make(optimizer=FaultyConfig(errors=()))).phases[0].groups[0]
    assert isinstance(group.parameters, tuple)


def test_all_faults_of_a_grouping_are_reported_together(make: Make) -> None:
    with pytest.raises(PluginError) as caught:
        plan_of(make(optimizer=FaultyConfig(errors=("left out", "twice", "frozen"))))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("error", ["negative rate", "rate not a number", "negative decay"])
def test_rates_and_decays_of_a_grouping_must_not_be_negative(make: Make, error: str) -> None:
    with pytest.raises(PluginError, match=r"^optimizer: plugin 'faulty' of .*group '?all"):
        plan_of(make(optimizer=FaultyConfig(errors=(error,))))


class UnfreezingConfig(FreezeStrategyConfig):
    """Unfreezes the last layer in a later epoch."""

    kind: Literal["unfreezing"] = "unfreezing"
    epoch: int

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        return [name for name in names if "layer.1" in name] if epoch >= self.epoch else []


@pytest.mark.parametrize("epoch", [2, 5])
def test_a_strategy_that_changes_what_trains_begins_another_phase(make: Make, epoch: int) -> None:
    plan = plan_of(make(freeze=UnfreezingConfig(epoch=epoch), training={"epochs": 5}))
    assert [(phase.first, phase.cut) for phase in plan.phases] == [(1, Cut(5, "pooled")), (epoch, Cut(3, "tokens"))]
    assert [plan.phase_of(number).first for number in range(1, 6)] == [1] * (epoch - 1) + [epoch] * (6 - epoch)


@pytest.mark.slow
def test_a_strategy_that_would_change_after_the_last_epoch_has_one_phase(make: Make) -> None:
    (phase,) = plan_of(make(freeze=UnfreezingConfig(epoch=6), training={"epochs": 5})).phases
    assert phase.cut == Cut(5, "pooled")


class SayingConfig(UnfreezingConfig):
    """Says in which epochs it changes, truly or not, and counts what it is asked."""

    says: tuple[int, ...] = ()
    asked: list[int] = Field(default_factory=list, exclude=True)

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        self.asked.append(epoch)
        return super().trainable(model, epoch)

    def phase_starts(self, model: Model, epochs: int) -> Collection[int]:
        return self.says


def test_a_strategy_that_says_when_it_changes_is_not_asked_for_every_epoch(make: Make) -> None:
    freeze = SayingConfig(epoch=70_000, says=(70_000, 200_000))
    plan = plan_of(make(freeze=freeze, training={"epochs": 100_000}))
    assert [phase.first for phase in plan.phases] == [1, 70_000]
    assert set(freeze.asked) == {1, 69_999, 70_000, 100_000}
    assert len(freeze.asked) < 10


def test_a_start_at_which_nothing_changes_begins_no_phase(make: Make) -> None:
    plan = plan_of(make(freeze=SayingConfig(epoch=4, says=(2, 3, 4)), training={"epochs": 5}))
    assert [phase.first for phase in plan.phases] == [1, 4]


@pytest.mark.parametrize(("says", "found"), [((), 5), ((2, 5), 4)])
def test_a_change_that_a_strategy_does_not_say_is_an_error(make: Make, says: tuple[int, ...], found: int) -> None:
    with pytest.raises(PluginError, match=f"what trains changes by epoch {found}, but phase_starts does not say so"):
        plan_of(make(freeze=SayingConfig(epoch=4, says=says), training={"epochs": 5}))


class AlternatingConfig(FreezeStrategyConfig):
    """Trains the backbone in every second epoch."""

    kind: Literal["alternating"] = "alternating"

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        return [f"backbone.{name}" for name, _ in model.backbone.named_parameters()] if epoch % 2 == 0 else []


@pytest.mark.slow
def test_a_strategy_that_does_not_say_when_it_changes_is_asked_for_every_epoch_and_that_is_said(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(make(freeze=AlternatingConfig(), training={"epochs": 3001}))
    assert [phase.first for phase in plan.phases] == list(range(1, 3002))
    assert [phase.prefix_is_pretrained for phase in plan.phases[:4]] == [True, True, False, True]
    assert {phase.cut for phase in plan.phases[1::2]} == {Cut(0, "token ids")}
    assert "freeze strategy 'alternating' is asked what trains in each of 3,000 epochs" in caplog.text


class ImpureConfig(FreezeStrategyConfig):
    """Unfreezes a layer more each time it is asked."""

    kind: Literal["impure"] = "impure"
    asked: list[int] = Field(default_factory=list, exclude=True)

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        self.asked.append(epoch)
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        return names[-len(self.asked) :]

    def phase_starts(self, model: Model, epochs: int) -> Collection[int]:
        return ()


def test_a_strategy_that_answers_otherwise_when_asked_again_is_an_error(make: Make) -> None:
    with pytest.raises(PluginError, match="asked again what trains in epoch 1, it gives another answer"):
        plan_of(make(freeze=ImpureConfig(), training={"epochs": 1}))


class TextConfig(FreezeStrategyConfig):
    """Gives one name in place of a list."""

    kind: Literal["text"] = "text"

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        return "backbone.layer.1"


def test_a_strategy_that_gives_a_text_for_a_list_is_an_error(make: Make) -> None:
    with pytest.raises(PluginError, match=r"must give a collection of names, got 'backbone\.layer\.1'"):
        plan_of(make(freeze=TextConfig()))


class ChoosyConfig(UnfreezingConfig):
    """Refuses a later epoch."""

    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        if epoch == self.epoch:
            raise ValueError(f"nothing to unfreeze in epoch {epoch}")
        return []


def test_a_strategy_that_fails_in_a_later_epoch_is_told_before_anything_is_encoded(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_of(make(freeze=ChoosyConfig(epoch=4), training={"epochs": 5}))
    assert str(caught.value) == "freeze: nothing to unfreeze in epoch 4"


def test_a_plan_leaves_the_model_as_in_the_first_epoch(make: Make) -> None:
    prepared = prepare(make(freeze=UnfreezingConfig(epoch=2), training={"epochs": 5}))
    assert prepared.model.cut == prepared.plan.phases[0].cut
    assert not any(parameter.requires_grad for parameter in prepared.model.backbone.parameters())


def test_a_plan_counts_what_trains_and_what_is_frozen(make: Make) -> None:
    plan = plan_of(make(freeze=LAST_FFN))
    backbone = 16 * 64 + 64 + 64 * 16 + 16 + 2 * 16
    heads = (16 * 8 + 8 + 8 * 1 + 1) + (16 * 8 + 8 + 8 * 3 + 3)
    assert {group.name: plan.size(group) for group in plan.phases[0].groups} == {"heads": heads, "backbone": backbone}
    assert plan.trainable_numbers == heads + backbone
    assert plan.frozen + plan.trainable_numbers == sum(p.numel() for p in prepare(make()).model.parameters())


def test_a_plan_names_the_stages_on_either_side_of_the_cut(make: Make) -> None:
    (phase,) = plan_of(make(freeze=LAST_FFN)).phases
    assert phase.prefix == ("embeddings", "layer.0.attention", "layer.0.ffn", "layer.1.attention")
    assert phase.suffix == ("layer.1.ffn",)


def test_a_group_without_parameters_is_left_out(make: Make) -> None:
    assert [group.name for group in plan_of(make(freeze=AllConfig())).phases[0].groups] == ["heads"]


def test_a_plan_counts_texts_and_tokens_of_all_splits(make: Make) -> None:
    prepared = prepare(make())
    texts = [text for part in prepared.dataset.splits.values() for text in part.texts]
    assert prepared.plan.corpus_size.texts == len(texts) == 60
    assert prepared.plan.corpus_size.tokens == sum(min(32, len(text) + 2) for text in texts)
    assert prepared.plan.corpus_size.truncated == sum(len(text) > 30 for text in texts) == 0


def test_truncated_texts_are_a_warning(make: Make) -> None:
    experiment = make()
    prepared = prepare(experiment.model_copy(update={"backbone": type(experiment.backbone)(max_length=12)}))
    truncated = prepared.plan.corpus_size.truncated
    assert prepared.warnings == [
        f"{truncated} of 60 texts are longer than the backbone's max_length and were truncated"
    ]
    assert truncated > 50


@pytest.mark.parametrize(
    ("pooling", "freeze", "keeps"),
    [
        (ClsConfig(), AllConfig(), "pooled"),
        (ClsConfig(), LAST_FFN, "first token"),
        (MeanConfig(), LAST_FFN, "tokens"),
        (ClsConfig(), NoneConfig(), "token ids"),
    ],
)
def test_kept_bytes_are_those_of_float32_activations(
    make: Make, pooling: ClsConfig | MeanConfig, freeze: FreezeStrategyConfig, keeps: str
) -> None:
    plan = plan_of(make(pooling=pooling, freeze=freeze))
    expected = {
        "pooled": 60 * 16 * 4,
        "first token": 60 * 16 * 4,
        "tokens": plan.corpus_size.tokens * 16 * 4,
        "token ids": 0,
    }
    (phase,) = plan.phases
    assert phase.cut.keeps == keeps
    assert plan.kept_bytes(phase) == expected[keeps]


class FirstAndMean(Pooling):
    """The first token and the mean of all, one behind the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = 2 * width

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.cat([hidden[:, 0], mean], dim=1)


class FirstAndMeanConfig(PoolingConfig):
    """Settings of it."""

    kind: Literal["first_and_mean"] = "first_and_mean"

    def build(self, width: int) -> Pooling:
        return FirstAndMean(width)


def test_a_wider_pooling_has_wider_vectors_kept(make: Make) -> None:
    plan = plan_of(make(pooling=FirstAndMeanConfig(), freeze=AllConfig()))
    assert plan.kept_bytes(plan.phases[0]) == 60 * 2 * 16 * 4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()])
def test_two_bytes_a_number_halve_what_is_kept(make: Make, pooling: ClsConfig | MeanConfig, dtype: str) -> None:
    whole = plan_of(make(pooling=pooling))
    half = plan_of(make(pooling=pooling, training={"activation_dtype": dtype}))
    assert 2 * half.kept_bytes(half.phases[0]) == whole.kept_bytes(whole.phases[0])


def test_equal_texts_are_kept_once(make: Make, write: Callable[..., Path]) -> None:
    rows = "".join(f"text {number % 5},{'pos' if number % 2 else 'neg'}\n" for number in range(40))
    experiment = make(pooling=MeanConfig(), tasks={"sentiment": make().tasks["sentiment"]})
    ((name, source),) = experiment.data.items()
    file = write("twice.csv", "text,sentiment\n" + rows)
    twice = experiment.model_copy(update={"data": {name: source.model_copy(update={"path": file})}})
    plan = plan_of(twice)
    assert (plan.corpus_size.texts, plan.corpus_size.distinct_texts) == (40, 5)
    assert (plan.corpus_size.tokens, plan.corpus_size.distinct_tokens) == (40 * 8, 5 * 8)
    assert plan.kept_bytes(plan.phases[0]) == 5 * 8 * 16 * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": HeadsAndBackboneConfig(heads_lr=2e-2, backbone_lr=1e-3)},
        {"optimizer": HeadsAndBackboneConfig(heads_lr=1e-2, backbone_lr=1e-3, weight_decay=0.1)},
        {"optimizer": UniformConfig()},
        {"freeze": AllConfig()},
        {"freeze": UnfreezingConfig(epoch=2)},
        {"pooling": MeanConfig()},
    ],
)
def test_the_digest_changes_with_what_decides_the_result(make: Make, change: dict[str, object]) -> None:
    assert plan_of(make(**change)).digest != plan_of(make()).digest


@pytest.mark.slow
def test_the_digest_does_not_change_with_the_data(make: Make) -> None:
    experiment = make()
    ((name, source),) = experiment.data.items()
    fewer = experiment.model_copy(update={"data": {name: source.model_copy(update={"limit": 50})}})
    assert plan_of(fewer).corpus_size.texts != plan_of(experiment).corpus_size.texts
    assert plan_of(fewer).digest == plan_of(experiment).digest


def test_a_plan_is_dumped_as_json_values(make: Make) -> None:
    plan = plan_of(make())
    dumped = plan.dump()
    assert json.loads(json.dumps(dumped)) == dumped
    assert dumped["phases"][0]["cut"] == {"stage": 4, "keeps": "first token", "layers": 0}
    assert dumped["digest"] == plan.digest
    assert dumped["kept_bytes"] == [plan.kept_bytes(plan.phases[0])]


SCRIPT = """
import sys
from topwork.engine.preparation import prepare
from topwork.experiment.schema import Experiment
from topwork.registry import discover
from topwork.testing import TinyBackboneConfig
import json
raw = json.loads(sys.argv[1]) | {"backbone": TinyBackboneConfig()}
print(prepare(Experiment.model_validate(raw, context={"registry": discover()})).plan.digest)
"""


@pytest.mark.slow
def test_the_digest_is_the_same_in_another_process(make: Make, tmp_path: Path) -> None:
    experiment = make()
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, experiment.model_dump_json()],
        env=os.environ | {"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
    )
    assert finished.stdout.strip() == plan_of(experiment).digest
