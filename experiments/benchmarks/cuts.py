# python experiments/benchmarks/cuts.py
"""What it costs to encode for a study over `freeze: {kind: last_layers, count: 1..6}`, against one pass.

Synthetic reviews and MiniLM, a new activation store in each round, in an order drawn anew: the texts are encoded for
`last_layers 1` alone, and for all six depths at once, as a study does before its trials. Both as medians over rounds,
of the time in the encoder and the store. Writes results/cuts.json.
"""

import argparse
import json
import os
import random
import runpy
import statistics
import tempfile
from pathlib import Path

import torch

import topwork
from topwork.engine.observer import Observer
from topwork.engine.preparation_cache import PreparationCache
from topwork.experiment.schema import Experiment
from topwork.files import write_file
from topwork.lab.study.encode_ahead import encode_ahead
from topwork.lab.study.resolved_study import plan_study, resolve_study
from topwork.registry import discover

HERE = Path(__file__).parent
MAKE_REVIEWS = HERE.parent / "data" / "make_synthetic_reviews.py"

EXPERIMENT = """
name: cuts
data:
  reviews: {{path: {path}, split: {{validation: 0.1, test: 0.1}}}}
backbone: {{kind: minilm, max_length: 128}}
pooling: {{kind: {pooling}}}
tasks:
  sentiment: {{label: sentiment, source: reviews}}
freeze: {{kind: last_layers, count: 1}}
study:
  search: {{freeze.count: {{choices: {counts}}}}}
  objective: loss
"""


def write_reviews(path: Path, texts: int) -> None:
    """Write reviews of three to nine sentences."""
    makes, draw = runpy.run_path(str(MAKE_REVIEWS)), random.Random(0)
    rows = []
    for number in range(texts):
        sentiment = ("neg", "pos")[number % 2]
        subject = draw.choice(sorted(makes["SUBJECTS"]))
        review = " ".join(makes["review"](subject, sentiment, draw) for _ in range(draw.randint(3, 9)))
        rows.append(json.dumps({"text": review, "sentiment": sentiment}))
    write_file(path, ("\n".join(rows) + "\n").encode())


def seconds_to_encode(experiment: Experiment) -> float:
    """Encode what a study needs into a new activation store."""
    with tempfile.TemporaryDirectory() as cache_folder:
        os.environ["TOPWORK_CACHE"] = cache_folder
        study, cache = resolve_study(experiment, discover()), PreparationCache()
        return encode_ahead(study, plan_study(study, cache).baseline, cache, Observer())


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, object] = {"texts": arguments.texts, "rounds": arguments.rounds, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        reviews = Path(folder) / "reviews.jsonl"
        write_reviews(reviews, arguments.texts)
        for pooling in ("cls", "mean"):
            experiments = {}
            for name, counts in {"one depth": [1], "six depths": [1, 2, 3, 4, 5, 6]}.items():
                path = Path(folder) / "study.yaml"
                path.write_text(EXPERIMENT.format(path=reviews, pooling=pooling, counts=counts))
                experiments[name] = topwork.load_experiment(path)
            seconds: dict[str, list[float]] = {name: [] for name in experiments}
            for _ in range(arguments.rounds):
                for name in random.sample(sorted(experiments), len(experiments)):
                    seconds[name].append(seconds_to_encode(experiments[name]))
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            ratio = statistics.median(
                six / one for one, six in zip(seconds["one depth"], seconds["six depths"], strict=True)
            )
            found[pooling] = {"seconds": medians, "ratio": ratio}
            one, six = medians.values()
            print(f"{pooling}: one depth {one:.1f} s, six {six:.1f} s: {ratio:.2f} times")
    write_file(HERE / "results" / "cuts.json", (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
