# python experiments/benchmarks/sources.py reviews.txt
"""What it costs a training step that its rows come from eight sources with a task each, and not from one.

The same reviews in the same order, the same eight heads with the same labels: once as eight files, once as one file in
which each row has a label of one task and lacks the others. MiniLM frozen but for the published layer, and frozen
throughout; the speeds of training, in turns. Writes results/sources.json.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from topwork import Experiment, discover, train
from topwork.files import write_file

HERE = Path(__file__).parent
SOURCES = 8
FREEZE = {
    "one layer trains": {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]},
    "frozen": {"kind": "all"},
}


def write_files(reviews: Path, folder: Path) -> None:
    """Write the reviews as one file with a column for each task, and as a file for each task."""
    lines = reviews.read_text(encoding="utf-8").splitlines()
    rows = [(fields[3], fields[1]) for fields in (line.split(" ", 3) for line in lines)]
    with (folder / "one.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(f"task{number}" for number in range(SOURCES))])
        for place, (text, label) in enumerate(rows):
            writer.writerow([text, *(label if place % SOURCES == number else "" for number in range(SOURCES))])
    for number in range(SOURCES):
        with (folder / f"source{number}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "label"), *rows[number::SOURCES]])


def make_experiment(folder: Path, freeze: str, *, sources: int) -> Experiment:
    """Eight tasks of one source or of eight."""
    one = sources == 1
    files = {"all": "one.csv"} if one else {f"source{number}": f"source{number}.csv" for number in range(SOURCES)}
    raw: dict[str, Any] = {
        "name": f"sources-{sources}",
        "data": {name: {"path": str(folder / file), "split": {"test": 0.1}} for name, file in files.items()},
        "backbone": {"kind": "minilm", "max_length": 128},
        "pooling": {"kind": "mean"},
        "freeze": FREEZE[freeze],
        "tasks": {
            f"task{number}": {"label": f"task{number}", "missing": "skip", "source": "all"}
            if one
            else {"label": "label", "source": f"source{number}"}
            for number in range(SOURCES)
        },
        "training": {"epochs": 5, "batch_size": 64, "shuffle": True, "patience": None, "device": "cpu"},
        "tracking": {"enabled": False},
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


def main() -> None:
    """Train both in turns, and compare the medians of their speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        os.chdir(temporary)
        write_files(arguments.reviews.absolute(), Path(temporary))
        for freeze in FREEZE:
            speeds: dict[int, list[float]] = {1: [], SOURCES: []}
            for turn in range(2):
                for sources, of_sources in speeds.items():
                    experiment = make_experiment(Path(temporary), freeze, sources=sources)
                    result = train(experiment, output=Path(temporary) / f"{freeze}-{sources}-{turn}")
                    of_sources += [epoch.texts_per_second for epoch in result.epochs]
            one, many = statistics.median(speeds[1]), statistics.median(speeds[SOURCES])
            found[freeze] = {"one_source": one, "eight_sources": many, "ratio": one / many}
            print(freeze, json.dumps(found[freeze]), flush=True)
    write_file(HERE / "results" / "sources.json", (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
