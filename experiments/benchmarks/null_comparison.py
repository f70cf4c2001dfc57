# python experiments/benchmarks/null_comparison.py --repeats 200
"""How often a difference is called significant where there is none.

In each repeat 300 synthetic reviews are made anew and divided into rows to train, validate and test on; the same
experiment is trained with five seeds, and with five other seeds; and the two are compared as `topwork compare` and
`topwork transfer` compare runs: on the same test rows, with an interval for other seeds and other rows. Both have the
same true figures, so about 5 % of the intervals should exclude 0. MiniLM, frozen; a linear head for two classes.
Writes results/null_comparison.json.
"""

import argparse
import csv
import json
import os
import random
import runpy
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from topwork import Experiment, discover
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.comparison import SplitOutputs, difference, metrics_of, stack_seeds
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation, assemble, prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.search import with_overrides
from topwork.experiment.source import SplitName
from topwork.files import write_file

HERE = Path(__file__).parent
MAKE_REVIEWS = HERE.parent / "data" / "make_synthetic_reviews.py"
SEEDS = 5


def write_reviews(file: Path, seed: int, rows: int = 300) -> None:
    """Write synthetic reviews made as those of the quickstart are."""
    makes = runpy.run_path(str(MAKE_REVIEWS))
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "category", "sentiment"])
        for _ in range(rows):
            category, sentiment = draw.choice(sorted(makes["SUBJECTS"])), draw.choice(["neg", "pos"])
            writer.writerow([makes["review"](category, sentiment, draw), category, sentiment])


def make_experiment(file: Path) -> Experiment:
    """A linear head for the sentiment of some reviews."""
    raw = {
        "name": "null",
        "data": {"reviews": {"path": str(file), "split": {"validation": 0.2, "test": 0.4, "method": "random"}}},
        "backbone": {"kind": "minilm", "max_length": 64},
        "pooling": {"kind": "mean"},
        "freeze": {"kind": "all"},
        "tasks": {"sentiment": {"label": "sentiment", "head": {"kind": "binary", "hidden": []}}},
        "training": {"epochs": 6, "batch_size": 20, "shuffle": True, "patience": 6, "monitor": "validation/loss"},
        "tracking": {"enabled": False},
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


def outputs_of_seeds(first: Preparation, data: dict[SplitName, Examples], seeds: range) -> SplitOutputs:
    """Train with some seeds on the same activations, and return the outputs for the test rows."""
    registry, outputs = discover(), []
    for seed in seeds:
        experiment = with_overrides(first.experiment, {"training.seed": seed}, registry)
        prepared = assemble(experiment, first.dataset, first.corpus, first.model.backbone)
        accelerator = make_accelerator(experiment.training)
        fitted = prepared.fit(lambda phase: data, accelerator=accelerator, observer=Observer())
        of_test = prepared.outputs(fitted.data["test"], device=accelerator.device)
        outputs.append(prepared.split_outputs("test", of_test, fitted.data["test"]))
    return stack_seeds(outputs)


def compare_once(repeat: int) -> dict[str, dict[str, float]]:
    """Compare five seeds with five others on reviews of their own; return the difference and its interval by metric."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        file = Path(temporary) / "reviews.csv"
        write_reviews(file, seed=1000 + repeat)
        experiment = make_experiment(file)
        first = prepare(experiment)
        data, _ = first.load_examples(first.plan.phases[0], torch.device("cpu"), Observer())
        one = outputs_of_seeds(first, data, range(SEEDS))
        other = outputs_of_seeds(first, data, range(SEEDS, 2 * SEEDS))
    found = {}
    for task, targets in one.targets.items():
        for name, metric in metrics_of(experiment.tasks[task].head, one, task).items():
            gain = difference((metric, one.by_seed(task)), (metric, other.by_seed(task)), targets)
            found[f"{task}/{name}"] = {"difference": gain.value, "low": gain.low, "high": gain.high}
    return found


def main() -> None:
    """Compare many times, and count the intervals that exclude 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    every: list[dict[str, dict[str, float]]] = []
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(compare_once, range(arguments.repeats)), 1):
            every.append(found)
            print(number, json.dumps(found["sentiment/accuracy"]), flush=True)
    called = {
        name: sum(not one[name]["low"] <= 0 <= one[name]["high"] for one in every) / len(every) for name in every[0]
    }
    result = {"repeats": len(every), "seeds": SEEDS, "called_significant": called}
    print(json.dumps(result, indent=2))
    write_file(HERE / "results" / "null_comparison.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
