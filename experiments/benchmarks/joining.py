# python experiments/benchmarks/joining.py
"""What a sampler and a loss weighting add to a training step.

The synthetic reviews of the quickstart with two, four and eight tasks, MiniLM frozen but for the published layer, and
frozen throughout. A step with a weighting against the same step with a plain sum of the losses, on the same batch and
one after the other, the median over batches; and the time that a sampler takes for an epoch's batches, as a share of
that epoch's steps. Writes results/joining.json.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from topwork import Experiment, discover
from topwork.engine.encoding.examples import Examples
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.optimizer import make_optimizer
from topwork.engine.training.sampling import resolve_sampling
from topwork.engine.training.step import JointLoss, divide_batch
from topwork.files import write_file

HERE = Path(__file__).parent
REVIEWS = HERE.parent / "data" / "synthetic_reviews.csv"
FREEZE: dict[str, dict[str, Any]] = {
    "one layer trains": {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]},
    "frozen": {"kind": "all"},
}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed"},
    "uncertainty": {"kind": "uncertainty"},
    "dynamic_average": {"kind": "dynamic_average"},
    "FAMO": {"kind": "torchjd", "scalarizer": "FAMO"},
    "PCGrad": {"kind": "torchjd", "aggregator": "PCGrad"},
    "UPGrad": {"kind": "torchjd", "aggregator": "UPGrad"},
}
SIZES = {f"source{number}": 2000 * (number + 1) for number in range(7)} | {"small": 300}
SAMPLERS: dict[str, dict[str, Any]] = {
    "proportional": {"kind": "proportional"},
    "temperature": {"kind": "temperature", "temperature": 3.0, "cooldown": 10},
    "uniform": {"kind": "uniform"},
    "weighted": {"kind": "weighted", "weights": dict.fromkeys(SIZES, 1.0) | {"small": 2.0}},
    "round_robin": {"kind": "round_robin"},
}
#: Steps of each, all on the same batches, in an order drawn anew for each.
TURNS = 60


def make_experiment(freeze: str, tasks: int, weighting: dict[str, Any]) -> Experiment:
    """So many heads on the same reviews."""
    raw: dict[str, Any] = {
        "name": "joining",
        "data": {"reviews": {"path": str(REVIEWS)}},
        "backbone": {"kind": "minilm", "max_length": 64},
        "pooling": {"kind": "mean"},
        "freeze": FREEZE[freeze],
        "tasks": {f"task{number}": {"label": "category" if number % 2 else "sentiment"} for number in range(tasks)},
        "weighting": weighting,
        "training": {"batch_size": 64, "shuffle": True, "device": "cpu"},
        "tracking": {"enabled": False},
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


def make_step(experiment: Experiment, *, plain: bool) -> tuple[Callable[[torch.Tensor], None], Preparation, Examples]:
    """Return what takes one step; ``plain`` adds the losses up as a loop for one experiment would."""
    prepared = prepare(experiment)
    accelerator = make_accelerator(experiment.training)
    device = accelerator.device
    data, _ = prepared.load_examples(prepared.plan.phases[0], device, Observer())
    model, weights = prepared.model, experiment.loss_weights
    optimizer = make_optimizer(model, prepared.weighting, prepared.plan.phases[0], prepared.experiment.training)
    joint = JointLoss(model, model, prepared.weighting, weights, 1, accelerator)
    examples = data["train"]
    model.train()

    def by_hand(rows: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        ((piece,), _), batch = divide_batch(model.tasks, examples, rows, 1, device), examples.batch(rows)
        outputs = model(batch.hidden.to(device), batch.mask.to(device), batch.inputs)
        losses = {
            name: share * model.tasks[name].loss(outputs[name], piece.targets[name])
            for name, share in piece.shares.items()
        }
        accelerator.backward(sum(weights[name] * loss for name, loss in losses.items()))
        for loss in losses.values():
            loss.item()
        optimizer.step()

    def step(rows: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        joint.backward(examples, rows)
        optimizer.step()
        joint.after_step(examples, rows)

    return (by_hand if plain else step), prepared, examples


def main() -> None:
    """Time steps in turns, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        for freeze in FREEZE:
            for tasks in (2, 4, 8):
                usable = {
                    name: one for name, one in WEIGHTINGS.items() if freeze != "frozen" or "aggregator" not in one
                }
                made = {
                    name: make_step(make_experiment(freeze, tasks, one), plain=False) for name, one in usable.items()
                }
                made["plain"] = make_step(make_experiment(freeze, tasks, WEIGHTINGS["fixed"]), plain=True)
                seconds: dict[str, list[float]] = {name: [] for name in made}
                for turn in range(TURNS):
                    batch = torch.randperm(made["plain"][2].count)[:64]
                    for name in random.Random(turn).sample(list(made), len(made)):
                        started = perf_counter()
                        made[name][0](batch)
                        seconds[name].append(perf_counter() - started)
                plain = statistics.median(seconds["plain"])
                ratios = {
                    name: statistics.median(one / other for one, other in zip(of_one, seconds["plain"], strict=True))
                    for name, of_one in seconds.items()
                }
                found[f"{freeze}, {tasks} tasks"] = {"plain_step_seconds": plain, "ratios": ratios}
                print(freeze, tasks, json.dumps(found[f"{freeze}, {tasks} tasks"]), flush=True)
    step_seconds = min(one["plain_step_seconds"] for one in found.values())
    found["samplers"] = sampler_shares(step_seconds)
    print(json.dumps(found["samplers"]))
    write_file(HERE / "results" / "joining.json", (json.dumps(found, indent=2) + "\n").encode())


def sampler_shares(step_seconds: float) -> dict[str, float]:
    """Return the time that a sampler takes for the batches of 50,000 rows of eight sources, by step, as a share."""
    settings = make_experiment("frozen", 2, WEIGHTINGS["fixed"]).training
    shares = {}
    for name, raw in SAMPLERS.items():
        sampling = resolve_sampling(discover().samplers.parse(raw, problems=[]), SIZES, 20, where="sampling")
        times = []
        for epoch in range(1, 21):
            started = perf_counter()
            batches = sampling.batches_of(epoch, settings)
            times.append((perf_counter() - started) / len(batches))
        shares[name] = statistics.median(times) / step_seconds
    return shares


if __name__ == "__main__":
    main()
