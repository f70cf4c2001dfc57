"""Observers see a run as it is, several at once, and none of them changes or ends it unless it says so."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.observer import EncodingReport, Epoch, Observer, TrainingStep
from topwork.errors import ConfigurationError, DataError
from topwork.experiment.schema import Experiment
from topwork.lab.observers import Observers
from topwork.lab.runs import resume, train, train_seeds

pytestmark = pytest.mark.usefixtures("heard")


class Recorder(Observer):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def run(self, name: str) -> None:
        self.told.append(f"run {name}")

    def begin(self, phase: str, total: int) -> None:
        self.told.append(f"begin {phase} {total}")

    def advance(self, done: int) -> None:
        self.told.append("advance")

    def encoded(self, report: EncodingReport) -> None:
        self.told.append(f"encoded {report.texts}")

    def start(self, model: nn.Module) -> None:
        self.told.append("start")

    def step(self, step: TrainingStep) -> None:
        self.told.append(f"step {step.epoch} {step.number}")

    def epoch(self, epoch: Epoch) -> None:
        self.told.append(f"epoch {epoch.number}")

    def end(self, best_epoch: int, metrics: object) -> None:
        self.told.append(f"end {best_epoch}")


class EveryStep(Recorder):
    every_step = True


class Failing(Observer):
    """Fails at the end of the first epoch."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def epoch(self, epoch: Epoch) -> None:
        self.calls += 1
        raise self.error


class Disturbing(Observer):
    """Draws random numbers at every event."""

    every_step = True

    def advance(self, done: int) -> None:
        torch.randn(3)

    def step(self, step: TrainingStep) -> None:
        torch.manual_seed(step.number)

    def epoch(self, epoch: Epoch) -> None:
        torch.randn(3)


class GradientNorms(Observer):
    """Keeps the norm of the gradients of each step."""

    every_step = True

    def start(self, model: nn.Module) -> None:
        self.model, self.norms = model, list[float]()

    def step(self, step: TrainingStep) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.norms.append(float(nn.utils.get_total_norm(gradients)))


class StopAfter(Observer):
    """Ends training after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def epoch(self, epoch: Epoch) -> None:
        if epoch.number >= self.last:
            self.stop_reason = "this is enough"

    def resumed(self, epochs: object, steps: int) -> None:
        for epoch in epochs:  # type: ignore[attr-defined]
            self.epoch(epoch)


class Interrupting(Observer):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, number: int) -> None:
        self.number = number

    def epoch(self, epoch: Epoch) -> None:
        if epoch.number == self.number:
            raise KeyboardInterrupt


def untracked(*settings: str, epochs: int = 3) -> Experiment:
    training = f"training={{epochs: {epochs}, batch_size: 16, device: cpu, patience: null, shuffle: true}}"
    return small("tracking.enabled=false", training, *settings)


def weights(folder: Path) -> list[torch.Tensor]:
    return list(load_model(folder).model.state_dict().values())


def test_several_are_told_everything_in_its_order(tmp_path: Path) -> None:
    plain, thorough = Recorder(), EveryStep()
    train(untracked(epochs=2), output=tmp_path / "model", observer=[plain, thorough])
    told = [one for one in plain.told if one != "advance" and not one.startswith("begin encoding")]
    assert told == ["encoded 78", "start", "begin epoch 1 3", "epoch 1", "begin epoch 2 3", "epoch 2", "end 2"]
    steps = [one for one in thorough.told if one.startswith("step")]
    assert steps == [f"step {epoch} {number}" for epoch in (1, 2) for number in (1, 2, 3)]
    assert [one for one in thorough.told if not one.startswith("step")] == plain.told


def test_one_that_fails_is_told_of_and_the_run_goes_on_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, recorder = Failing(ZeroDivisionError("by zero")), Recorder()
    with caplog.at_level(logging.WARNING):
        result = train(untracked(), output=tmp_path / "model", observer=[failing, recorder])
    assert len(result.epochs) == 3
    assert failing.calls == 1
    assert recorder.told[-1] == "end 3"
    (told,) = [record.getMessage() for record in caplog.records if "observer" in record.getMessage()]
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "raise self.error" in text)
    assert told == (
        f"observer Failing failed in epoch: ZeroDivisionError: by zero ({__file__}:{line}); the run goes on without it"
    )


def test_one_that_raises_an_error_of_topwork_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no more"):
        train(untracked(), output=tmp_path / "model", observer=Failing(DataError("no more")))
    assert not (tmp_path / "model").exists()


def test_what_it_draws_at_random_changes_nothing(tmp_path: Path) -> None:
    dropout = "tasks.category.head.dropout=0.3"
    train(untracked(dropout), output=tmp_path / "alone")
    train(untracked(dropout), output=tmp_path / "disturbed", observer=Disturbing())
    assert all(map(torch.equal, weights(tmp_path / "alone"), weights(tmp_path / "disturbed")))


def test_it_reads_the_gradients_of_each_step(tmp_path: Path) -> None:
    free, clipped = GradientNorms(), GradientNorms()
    train(untracked(), output=tmp_path / "free", observer=free)
    assert len(free.norms) == 9
    assert min(free.norms) > 0
    train(untracked("training.clip_norm=0.01"), output=tmp_path / "clipped", observer=clipped)
    assert clipped.norms == pytest.approx([0.01] * 9, rel=1e-3)


def test_its_reason_to_stop_ends_training_after_the_epoch(tmp_path: Path) -> None:
    result = train(untracked(epochs=9), output=tmp_path / "model", observer=StopAfter(2))
    assert len(result.epochs) == 2
    assert result.warnings[-1] == "an observer ended training after epoch 2: this is enough"
    train(untracked(epochs=2), output=tmp_path / "same")
    assert all(map(torch.equal, weights(tmp_path / "model"), weights(tmp_path / "same")))


def test_with_patience_the_best_epoch_comes_back_where_it_ends_training(tmp_path: Path) -> None:
    better_in_the_beginning = ["training.patience=9", "training.monitor=training/loss", "optimizer.heads_lr=1.0"]
    result = train(untracked(*better_in_the_beginning, epochs=9), output=tmp_path / "model", observer=StopAfter(3))
    losses = [epoch.metrics["training/loss"] for epoch in result.epochs]
    assert len(losses) == 3
    assert result.best_epoch == losses.index(min(losses)) + 1


@pytest.mark.slow
def test_a_run_that_goes_on_tells_it_of_the_epochs_before(tmp_path: Path) -> None:
    frequent = "training.checkpoint_minutes=0.000001"
    with pytest.raises(KeyboardInterrupt):
        train(untracked(frequent, epochs=9), output=tmp_path / "model", observer=Interrupting(3))
    result = resume(tmp_path / "runs" / "model", observer=[StopAfter(2)])
    assert [epoch.number for epoch in result.epochs] == [1, 2]


@pytest.mark.slow
def test_a_reason_to_stop_is_of_one_training(tmp_path: Path) -> None:
    result = train_seeds(untracked("training.seeds=[0, 1]"), output=tmp_path / "models", observer=StopAfter(2))
    assert [len(one.epochs) for one in result.by_seed.values()] == [2, 2]


@pytest.mark.slow
def test_of_several_seeds_each_training_is_told_apart(tmp_path: Path) -> None:
    recorder = Recorder()
    train_seeds(untracked("training.seeds=[0, 1]", epochs=1), output=tmp_path / "models", observer=recorder)
    told = [one for one in recorder.told if one.startswith(("run", "start", "end"))]
    assert told == ["run seed 0", "start", "end 1", "run seed 1", "start", "end 1"]


def test_no_observer_is_one_that_does_nothing() -> None:
    for given in (None, [], Observer()):
        observers = Observers(given)
        observers.begin("encoding", 3)
        assert (observers.every_step, observers.stop_reason) == (False, "")


def test_a_signal_that_comes_while_it_is_called_is_no_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(untracked(), output=tmp_path / "model", observer=Interrupting(1))


class Careless(Observer):
    """Changes what it must not change, in one way."""

    every_step = True

    def __init__(self, change: str) -> None:
        self.change = change

    def start(self, model: nn.Module) -> None:
        self.model = model

    def step(self, step: TrainingStep) -> None:
        if self.change == "mode":
            self.model.eval()
        elif self.change == "dtype":
            torch.set_default_dtype(torch.float64)
        elif self.change == "gradients":
            torch.set_grad_enabled(False)
        else:
            step.losses.clear()  # type: ignore[attr-defined]  # what is tested

    def epoch(self, epoch: Epoch) -> None:
        epoch.metrics.clear()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("mode", "it changes the model's mode, which is train() or eval()"),
        ("dtype", "it changes torch's default dtype from torch.float32 to torch.float64"),
        ("gradients", "it changes torch's grad mode from True to False"),
        ("values", ""),
    ],
)
def test_what_it_changes_is_put_back(change: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dropout = "tasks.category.head.dropout=0.3"
    train(untracked(dropout), output=tmp_path / "alone")
    with caplog.at_level(logging.WARNING):
        result = train(untracked(dropout), output=tmp_path / "model", observer=Careless(change))
    assert told in caplog.text
    assert ("the run goes on without it" in caplog.text) == bool(told)
    assert all(map(torch.equal, weights(tmp_path / "alone"), weights(tmp_path / "model")))
    assert "training/loss" in result.epochs[0].metrics


class Raising(Observer):
    """Fails where it is asked for what it wants."""

    @property
    def stop_reason(self) -> str:  # type: ignore[override]  # what is tested
        raise RuntimeError("no reason")


def test_a_property_that_fails_is_told_of_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(train(untracked(), output=tmp_path / "model", observer=Raising()).epochs) == 3
    assert "observer Raising failed in stop_reason: RuntimeError: no reason" in caplog.text


@pytest.mark.parametrize("given", [Recorder, [Recorder], "observer", 3])
def test_what_is_no_observer_is_refused_before_a_run_is_begun(given: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"an observer is an object of a subclass of topwork\.Observer, got"):
        train(untracked(), output=tmp_path / "model", observer=given)  # type: ignore[arg-type]  # what is tested
    assert list(tmp_path.iterdir()) == []
