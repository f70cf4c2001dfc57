"""Runs that several processes carry out together: run with torchrun, it trains each and writes its results."""

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

import topwork
from small_encoders import WORDS, write_encoder
from topwork.lab.result import Result, SeedsResult
from topwork.torchrun import process_here

#: Of all runs: everything trains, nothing is dropped, and what comes in is written by ``prepare``.
COMMON: dict[str, Any] = {
    "backbone": {"kind": "auto", "model": "encoder", "max_length": 60},
    "pooling": {"kind": "mean"},
    "data": {
        "first": {"path": "first.csv", "split": {"validation": 0.2, "test": 0.2}},
        "second": {"path": "second.csv", "words": "text", "split": {"validation": 0.2, "test": 0.2}},
    },
    "tasks": {
        "mood": {"label": "mood", "source": "first", "head": {"kind": "binary"}, "missing": "skip"},
        "thing": {
            "label": "thing",
            "source": "first",
            "head": {"kind": "classification", "class_weights": "balanced"},
            "missing": "skip",
        },
        "words": {"label": "tags", "source": "second", "head": {"kind": "tagging"}, "labels": {"separator": " "}},
    },
    "freeze": {"kind": "none"},
    "tracking": {"log_model": False},
    "optimizer": {"kind": "heads_and_backbone", "heads_lr": 1e-3, "backbone_lr": 1e-4},
}
TRAINING = {"epochs": 2, "batch_size": 16, "device": "cpu", "shuffle": True, "patience": None}

#: What is special of each run.
RUNS: dict[str, dict[str, Any]] = {
    "pieces": {
        "weighting": {"kind": "uncertainty"},
        "training": TRAINING | {"accumulation": 3, "clip_norm": 0.5, "gradient_batches": 2},
    },
    "single": {
        "sampling": {"kind": "proportional", "batches": "single"},
        "weighting": {"kind": "dynamic_average"},
        "training": TRAINING | {"optimizer": "SGD", "batch_size": 7},
    },
    "gradual": {
        "freeze": {"kind": "gradual", "start": 1},
        "weighting": {"kind": "torchjd", "aggregator": "UPGrad"},
        "training": TRAINING | {"epochs": 4, "stop": "per_task", "patience": 1},
    },
    "bfloat16": {"training": TRAINING | {"precision": "bfloat16", "patience": 1, "epochs": 3}},
    "seeds": {"training": TRAINING | {"seeds": [0, 1], "epochs": 1}},
}


def write_inputs(folder: Path) -> None:
    """Write a small encoder without dropout and the rows of two sources, of which the first lacks labels."""
    write_encoder(folder / "encoder", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    draw = random.Random(0)
    with (folder / "first.csv").open("w", newline="") as first, (folder / "second.csv").open("w", newline="") as second:
        rows = csv.writer(first)
        rows.writerow(["text", "mood", "thing"])
        for number in range(90):
            mood = "" if number % 3 == 0 else draw.choice(["good", "bad"])
            thing = draw.choice(["book", "song", "saw"]) if number % 3 == 0 or number % 5 == 0 else ""
            rows.writerow([f"{number} {' '.join(draw.choices(WORDS, k=draw.randint(1, 9)))}", mood, thing])
        rows = csv.writer(second)
        rows.writerow(["text", "tags"])
        for number in range(50):
            words = [str(number), *draw.choices(WORDS, k=draw.randint(1, 9))]
            rows.writerow([" ".join(words), " ".join(draw.choices(["O", "B-a"], k=len(words)))])


def write_experiments(folder: Path) -> None:
    """Write the file of each run, which JSON is YAML too."""
    for name, special in RUNS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name} | COMMON | special))


def train_all(folder: Path, models: Path) -> dict[str, Result | SeedsResult]:
    """Carry out each run, and return its result by name."""
    results: dict[str, Result | SeedsResult] = {}
    for name, special in RUNS.items():
        experiment = topwork.load_experiment(folder / f"{name}.yaml")
        call = topwork.train_seeds if "seeds" in special["training"] else topwork.train
        results[name] = call(experiment, output=models / name)
    return results


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = train_all(place, place / "models")
    figures = {name: {metric: one.value for metric, one in result.estimates.items()} for name, result in found.items()}
    told = {name: result.warnings for name, result in found.items()}
    (place / f"results-{process_here()[1]}.json").write_text(json.dumps({"figures": figures, "warnings": told}))
