# python experiments/benchmarks/checkpoints.py
"""What checkpoints cost at their default settings.

MiniLM on the synthetic reviews of the quickstart, activations stored before: the published layer trains (read by CLS
and by mean), the last layer trains, and everything trains. For each, the share of the training's time that is spent
where checkpoints are written or looked whether one is due; how large one is, and how long it takes. Writes
results/checkpoints.json.
"""

import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from topwork import Experiment, discover
from topwork.engine.model.plan import Phase
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.state import TrainingState
from topwork.files import write_file

HERE = Path(__file__).parent
REVIEWS = HERE.parent / "data" / "synthetic_reviews.csv"
PUBLISHED = {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]}

#: What trains, how it is pooled, and for how many epochs.
CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    "one layer trains, cls": (PUBLISHED, "cls", 150),
    "one layer trains, mean": (PUBLISHED, "mean", 25),
    "the last layer trains, mean": ({"kind": "last_layers"}, "mean", 15),
    "all trains, cls": ({"kind": "none"}, "cls", 3),
}


class Timed(Checkpoints):
    """Measures itself."""

    def __init__(self, folder: CheckpointFolder, minutes: float) -> None:
        super().__init__(folder, minutes)
        self.in_steps: list[float] = []
        self.in_epochs: list[float] = []
        self.epochs: list[float] = []
        self.last = perf_counter()

    def start(self) -> None:
        super().start()
        self.last = perf_counter()

    def step_done(self, state: TrainingState) -> None:
        started = perf_counter()
        super().step_done(state)
        self.in_steps.append(perf_counter() - started)

    def epoch_done(self, state: TrainingState) -> None:
        started = perf_counter()
        super().epoch_done(state)
        self.in_epochs.append(perf_counter() - started)
        self.epochs.append(perf_counter() - self.last)
        self.last = perf_counter()


def make_experiment(freeze: dict[str, Any], pooling: str, epochs: int) -> Experiment:
    """The quickstart, without early stopping."""
    return Experiment.model_validate(
        {
            "name": "checkpoints",
            "data": {"reviews": {"path": str(REVIEWS), "split": {"validation": 0.15, "test": 0.25}}},
            "backbone": {"kind": "minilm"},
            "pooling": {"kind": pooling},
            "tasks": {
                "sentiment": {"label": "sentiment", "head": {"kind": "binary"}},
                "category": {"label": "category", "head": {"kind": "classification"}},
            },
            "freeze": freeze,
            "training": {"epochs": epochs, "patience": None, "shuffle": True, "device": "cpu"},
        },
        context={"registry": discover()},
    )


def measure(freeze: dict[str, Any], pooling: str, epochs: int) -> dict[str, float]:
    """Train, and say what checkpoints cost."""
    prepared = prepare(make_experiment(freeze, pooling, epochs))
    accelerator = make_accelerator(prepared.experiment.training)

    def load_examples(phase: Phase) -> Any:
        return prepared.load_examples(phase, accelerator.device, Observer())[0]

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointFolder(Path(folder) / "checkpoints")
        minutes = prepared.experiment.training.checkpoint_minutes
        assert minutes is not None
        timed = Timed(checkpoints, minutes)
        prepared.fit(load_examples, accelerator=accelerator, observer=Observer(), checkpoints=timed)
        started = perf_counter()
        size = _write_one(checkpoints, prepared)
        seconds = perf_counter() - started
    total = sum(timed.epochs)
    written = [one for one in timed.in_epochs + timed.in_steps if one > 1e-3]
    return {
        "epochs": epochs,
        "seconds of an epoch": round(statistics.median(timed.epochs), 3),
        "steps of an epoch": len(timed.in_steps) // epochs,
        "checkpoints written": len(written),
        "seconds of a checkpoint": round(statistics.median(written) if written else seconds, 3),
        "MB of a checkpoint": round(size / 1e6, 1),
        "share of the time": round((sum(timed.in_epochs) + sum(timed.in_steps)) / total, 5),
        "microseconds of a look between steps": round(1e6 * statistics.median(timed.in_steps), 2),
        "share of the time in looks": round(sum(one for one in timed.in_steps if one <= 1e-3) / total, 6),
    }


def _write_one(checkpoints: CheckpointFolder, prepared: Any) -> int:
    """Write a checkpoint of the size that one has, and return it."""
    paths = checkpoints.paths()
    if not paths:
        trained = {n: p.detach() for n, p in prepared.model.named_parameters() if n in prepared.plan.shapes}
        checkpoints.save(1, 0, {str(copy): {n: p.clone() for n, p in trained.items()} for copy in range(4)})
        paths = checkpoints.paths()
    return sum(path.stat().st_size for path in paths[0].iterdir())


def main() -> None:
    """Measure all cases and write them down."""
    found = {}
    for name, case in CASES.items():
        found[name] = measure(*case)
        print(name, json.dumps(found[name]), flush=True)
    write_file(HERE / "results" / "checkpoints.json", f"{json.dumps(found, indent=2)}\n".encode())


if __name__ == "__main__":
    main()
