"""A training that was stopped at any moment goes on to the same last bit."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_helpers import Recording, StopAt, StoppedError, assert_same, timeless
from phase_helpers import AlternatingConfig, DescendingConfig, weights_of
from topwork.engine.observer import Epoch, Observer
from topwork.engine.training import checkpoints as checkpoints_module
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment, Task
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.freeze_strategies.last_layers import LastLayersConfig
from topwork_plugins.freeze_strategies.lora import LoraConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig
from topwork_plugins.samplers.proportional import ProportionalConfig
from topwork_plugins.samplers.temperature import TemperatureConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

LOSS_WEIGHTINGS = [
    FixedConfig(),
    UncertaintyConfig(),
    DynamicAverageConfig(),
    TorchJdConfig(scalarizer="FAMO"),
    TorchJdConfig(scalarizer="Random"),
    TorchJdConfig(scalarizer="UW"),
]
GRADIENT_WEIGHTINGS = [
    TorchJdConfig(aggregator=name)
    for name in ("PCGrad", "UPGrad", "GradDrop", "ExcessMTL", "GradVac", "NashMTL", "PCD", "Random")
]
FREEZE = [
    AllConfig(),
    NoneConfig(),
    LastLayersConfig(),
    LoraConfig(rank=2, dropout=0.2),
    GradualConfig(start=1),
    AlternatingConfig(),
    DescendingConfig(),
]


@st.composite
def experiments(draw: st.DrawFn) -> dict[str, Any]:
    """Parts of experiments that differ in all that has state."""
    freeze = draw(st.sampled_from(FREEZE))
    joint = isinstance(freeze, NoneConfig | LastLayersConfig | LoraConfig | GradualConfig)
    weighting = draw(st.sampled_from([*LOSS_WEIGHTINGS, *(GRADIENT_WEIGHTINGS if joint else [])]))
    dropout = draw(st.sampled_from([0.0, 0.3]))
    optimizer = draw(st.sampled_from(["AdamW", "AdamW", "Adam", "SGD", "RMSprop", "Adafactor"]))
    per_task = draw(st.booleans())
    training = {
        "epochs": 3,
        "batch_size": 16,
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
        "accumulation": draw(st.sampled_from([1, 3])),
        "precision": draw(st.sampled_from(["float32", "float32", "bfloat16"])),
        "optimizer": optimizer,
        "optimizer_options": {"momentum": 0.9} if optimizer == "SGD" else {},
        "schedule": draw(st.sampled_from(["constant", "cosine"])),
        "clip_norm": draw(st.sampled_from([None, 0.5])),
        "stop": "per_task" if per_task else "together",
        "patience": 1 if per_task else draw(st.sampled_from([None, 1])),
        "gradient_batches": draw(st.sampled_from([0, 2])) if joint else 0,
    }
    return {
        "training": training,
        "freeze": freeze,
        "weighting": weighting,
        "pooling": draw(st.sampled_from([ClsConfig(), MeanConfig()])),
        "sampling": draw(st.sampled_from([ProportionalConfig(), TemperatureConfig(temperature=2.0, cooldown=2)])),
        "tasks": {
            "sentiment": Task(label="sentiment", head=BinaryConfig(hidden=(8,), dropout=dropout)),
            "category": Task(label="category", head=ClassificationConfig(hidden=(8,), dropout=dropout)),
        },
    }


class Epochs(Observer):
    """Notes what it hears of epochs."""

    def __init__(self) -> None:
        self.resumed_after: list[tuple[int, int]] = []
        self.numbers: list[int] = []

    def resumed(self, epochs: Any, steps: int) -> None:
        self.resumed_after.append((len(epochs), steps))

    def epoch(self, epoch: Epoch) -> None:
        self.numbers.append(epoch.number)


def own(epoch: Epoch) -> tuple[object, ...]:
    return epoch.number, epoch.metrics, epoch.learning_rates


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.slow
@pytest.mark.reliability("A1")
def test_a_training_goes_on_from_any_moment_to_the_same_last_bit(
    make: Make, train: Train, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    experiment = make(**data.draw(experiments()))
    undisturbed = Recording()
    whole = train(experiment, checkpoints=undisturbed)
    moment = data.draw(st.integers(1, len(undisturbed.states)))
    folder = CheckpointFolder(tmp_path_factory.mktemp("run") / "checkpoints")
    with pytest.raises(StoppedError):
        train(experiment, checkpoints=Checkpoints(folder, 1000.0, stop=StopAt(moment)))
    written = folder.load()
    assert written is not None
    assert_same(timeless(written), undisturbed.states[moment - 1])
    rest, heard = Recording(folder), Epochs()
    resumed = train(experiment, heard, checkpoints=rest)
    assert_same(rest.states, undisturbed.states[moment:])
    assert_same(weights_of(resumed.model), weights_of(whole.model))
    assert_same(resumed.fit.metrics, whole.fit.metrics)
    assert_same([own(one) for one in resumed.fit.epochs], [own(one) for one in whole.fit.epochs])
    assert resumed.fit.best_epochs == whole.fit.best_epochs
    ((epochs, _),) = heard.resumed_after
    assert heard.numbers == list(range(epochs + 1, len(whole.fit.epochs) + 1))


@pytest.mark.slow
def test_the_weights_left_of_the_cut_go_on_too_where_they_were_trained(
    make: Make, train: Train, tmp_path: Path
) -> None:
    experiment = make(freeze=DescendingConfig(), pooling=MeanConfig(), training={"epochs": 3})
    whole = train(experiment)
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with pytest.raises(StoppedError):
        train(experiment, checkpoints=Checkpoints(folder, 1000.0, stop=StopAt(8)))  # in the second epoch
    assert_same(weights_of(train(experiment, checkpoints=Recording(folder)).model), weights_of(whole.model))


class Clock:
    """Tells the time, which passes by a second at each look."""

    def __init__(self, *, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


class Saved(CheckpointFolder):
    """Notes at which moments there was a checkpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.moments: list[tuple[int, int]] = []

    def save(self, epoch: int, step: int, state: Any) -> None:
        self.moments.append((epoch, step))


def moments(make: Make, train: Train, minutes: float | None, seconds: float, monkeypatch: Any) -> list[tuple[int, int]]:
    """The moments of checkpoints in a training of 3 epochs of 5 steps, where a look at the clock takes time."""
    folder = Saved(Path("nowhere"))
    monkeypatch.setattr(checkpoints_module, "perf_counter", Clock(seconds=seconds))
    train(make(training={"epochs": 3}), checkpoints=Checkpoints(folder, minutes))
    return folder.moments


def test_within_an_epoch_there_is_a_checkpoint_when_its_time_has_come(
    make: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moments(make, train, 0.5, 16.0, monkeypatch)[:2] == [(1, 2), (1, 4)]


def test_at_the_end_of_an_epoch_there_is_one_where_it_takes_less_than_a_hundredth_of_the_time(
    make: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moments(make, train, 1000.0, 1.0, monkeypatch) == [(2, 0)]  # then it is known to take a second
    assert moments(make, train, 1000.0, 0.0, monkeypatch) == []
    monkeypatch.setattr(checkpoints_module, "SHARE", 0.5)
    assert moments(make, train, 1000.0, 1.0, monkeypatch) == [(2, 0), (3, 0), (4, 0)]


def test_there_are_none_where_none_are_wanted(make: Make, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    assert moments(make, train, None, 1000.0, monkeypatch) == []


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    make: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    folder = CheckpointFolder(tmp_path / "file" / "checkpoints")
    with caplog.at_level(logging.WARNING):
        trained = train(make(), checkpoints=Checkpoints(folder, 1e-6))
    assert len(trained.fit.epochs) == 2
    assert "no checkpoint was written, and those before it are untouched: " in caplog.text


def test_a_state_of_another_model_is_refused(make: Make, train: Train, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with pytest.raises(StoppedError):
        train(make(), checkpoints=Checkpoints(folder, 1000.0, stop=StopAt(2)))
    other = make(tasks={"sentiment": Task(label="sentiment", head=BinaryConfig(hidden=(9,)))})
    with pytest.raises(StorageError, match=r"weights and buffers are those of another model: heads\.category"):
        train(other, checkpoints=Checkpoints(folder, 1000.0))


#: Written by the first version that wrote checkpoints, in the second epoch; and what the training then came to.
FIRST_FORMAT = Path(__file__).parents[3] / "fixtures" / "checkpoint-format-1"


def first_format(make: Make) -> Experiment:
    """The experiment of that checkpoint."""
    return make(training={"epochs": 3}, weighting=UncertaintyConfig(), pooling=MeanConfig())


@pytest.mark.reliability("A12")
def test_a_checkpoint_of_the_first_format_goes_on_as_it_did_then(make: Make, train: Train, tmp_path: Path) -> None:
    shutil.copytree(FIRST_FORMAT, tmp_path / "checkpoints")
    heard = Epochs()
    trained = train(first_format(make), heard, checkpoints=Checkpoints(CheckpointFolder(tmp_path / "checkpoints"), 1e6))
    assert heard.resumed_after == [(1, 2)]
    recorded = json.loads((FIRST_FORMAT / "metrics.json").read_text())
    assert trained.fit.metrics == pytest.approx(recorded, abs=1e-3)  # on any processor
