# python experiments/benchmarks/methods.py experiments/transfer.yaml
"""Every loss weighting there is on eleven tasks, for two epochs: that it trains, and what a step costs.

The tasks of transfer.yaml, on fewer training rows, in batches of 512 rows of all sources, so that
nearly every step has rows of all tasks. Writes results/methods.json: for each weighting the processor seconds of the
second epoch, what these are over those of `fixed`, and the sum of training losses after each epoch.
"""

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any, get_args

import torch

from topwork import discover, load_experiment
from topwork.engine.observer import Epoch, Observer
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.search import with_overrides
from topwork.files import write_file
from topwork_plugins.loss_weightings.torchjd import Aggregator, Scalarizer

HERE = Path(__file__).parent

#: What the methods of TorchJD need that cannot do without.
OPTIONS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.4},
    "COSMOS": {"lambda_": 0.1},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1},
    "PBI": {"theta": 1.0},
    "STCH": {"mu": 0.5},
    "TrimmedMean": {"trim_number": 1},
}
#: The share of rows to test on, and the seed of the split, which leave few to train on, yet some of every class.
TEST = {
    "reviews": (0.95, 0), "trec": (0.92, 0), "subj": (0.96, 0), "mr": (0.96, 0), "sts": (0.94, 0),
    "emotions": (0.92, 0), "ewt": (0.85, 1),
}  # fmt: skip
WEIGHTED = ("COSMOS", "Constant", "PBI")


class Clock(Observer):
    """Notes when each epoch's steps began and ended."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.begun = 0.0

    def begin(self, phase: str, total: int) -> None:
        self.begun = process_time()

    def advance(self, done: int) -> None:
        self.ended = process_time()

    def epoch(self, epoch: Epoch) -> None:
        self.losses.append(epoch.metrics["training/loss"])
        self.seconds.append(self.ended - self.begun)


def weightings(tasks: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of every loss weighting, by a name for it."""
    found: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in ("fixed", "uncertainty", "dynamic_average")}
    for role, names in (("scalarizer", get_args(Scalarizer)), ("aggregator", get_args(Aggregator))):
        for name in names:
            weights = {"weights": dict.fromkeys(tasks, 1.0)} if name in WEIGHTED else {}
            found[f"{role} {name}"] = {"kind": "torchjd", role: name, "options": OPTIONS.get(name, {}) | weights}
    return found


def main() -> None:
    """Train with each in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = ["training={epochs: 2, batch_size: 512, shuffle: true, patience: null}", "sampling={kind: proportional}"]
    settings += [f"tasks.{task}.monitor=null" for task in ("alike", "joint", "emotion", "slots")]
    settings += [
        f"data.{source}.split={{validation: 0.02, test: {share}, method: random, seed: {seed}}}"
        for source, (share, seed) in TEST.items()
    ]
    experiment, registry, cache = load_experiment(arguments.experiment, settings), discover(), PreparationCache()
    found: dict[str, dict[str, Any]] = {}
    for name, weighting in weightings(list(experiment.tasks)).items():
        prepared = cache.prepare(with_overrides(experiment, {"weighting": weighting}, registry))
        accelerator, clock = make_accelerator(prepared.experiment.training), Clock()

        def load(phase, prepared=prepared, device=accelerator.device):
            examples = cache.load_examples(prepared, phase, device, Observer())[0]
            return {"train": examples["train"]}

        prepared.fit(load, accelerator=accelerator, observer=clock)
        found[name] = {"ratio": clock.seconds[-1] / found["fixed"]["seconds"] if found else 1.0}
        found[name] |= {"seconds": clock.seconds[-1], "losses": clock.losses}
        print(name, json.dumps(found[name]), flush=True)
    write_file(HERE / "results" / "methods.json", (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
