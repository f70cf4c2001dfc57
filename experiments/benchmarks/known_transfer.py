# python experiments/benchmarks/known_transfer.py reviews.txt
"""Whether `topwork transfer` tells tasks that help, that are useless, and that hurt, where the answer is known.

All tasks are of real reviews. `few` learns the sentiment from 60 rows, and `many` from 2,000 others: they should help
it. `faint` has labels drawn by lot whose loss counts a millionth: it should be of no use and do no harm. `loud` has
labels drawn by lot whose loss counts 30 times: it should hurt. MiniLM with its last feed-forward network trained, six
seeds. Writes results/known_transfer.json and results/known_transfer.png.
"""

import argparse
import csv
import json
import os
import random
import tempfile
from pathlib import Path

from topwork import Experiment, discover, transfer
from topwork.files import write_file
from topwork.lab.study.transfer_figure import draw_transfer

HERE = Path(__file__).parent

#: Of each task: its training rows, whether its labels are drawn by lot, and the weight of its loss.
TASKS = {"few": (60, False, 1.0), "many": (2000, False, 1.0), "faint": (60, True, 1e-6), "loud": (600, True, 30.0)}
SEEDS = [0, 1, 2, 3, 4, 5]


def write_files(reviews: Path, folder: Path) -> None:
    """Write the training rows of each task, and the rows that all are validated and tested on."""
    draw = random.Random(0)
    lines = [line.split(" ", 3) for line in reviews.read_text(encoding="utf-8").splitlines()]
    rows = [(text, sentiment) for _, sentiment, _, text in lines]
    draw.shuffle(rows)
    parts = {"test": 800, "validation": 400, **{name: count for name, (count, _, _) in TASKS.items()}}
    for name, count in parts.items():
        part, rows = rows[:count], rows[count:]
        if name in TASKS and TASKS[name][1]:
            part = [(text, draw.choice(["neg", "pos"])) for text, _ in part]
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "sentiment"), *part])


def make_experiment(folder: Path) -> Experiment:
    """The four tasks, each with a source of its own; all sources give equally many rows."""
    raw = {
        "name": "known",
        "data": {
            name: {split: str(folder / f"{file}.csv") for split, file in files.items()}
            for name in TASKS
            if (files := {"train": name, "validation": "validation", "test": "test"})
        },
        "backbone": {"kind": "minilm", "max_length": 128},
        "pooling": {"kind": "cls"},
        "tasks": {
            name: {
                "label": "sentiment",
                "source": name,
                "head": {"kind": "binary", "hidden": []},
                "loss_weight": weight,
            }
            for name, (_, _, weight) in TASKS.items()
        },
        "freeze": {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]},
        "optimizer": {"kind": "heads_and_backbone", "heads_lr": 1e-3, "backbone_lr": 1e-4},
        "sampling": {"kind": "uniform", "batches": "single"},
        "training": {"epochs": 6, "shuffle": True, "stop": "per_task", "patience": 6, "device": "cpu", "seeds": SEEDS},
        "tracking": {"enabled": False},
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


def main() -> None:
    """Train, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    reviews = parser.parse_args().reviews.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        os.chdir(temporary)
        write_files(reviews, Path(temporary))
        result = transfer(make_experiment(Path(temporary)))
        figure = draw_transfer(result)
    found = {"seconds": result.seconds, "trainings": result.trainings, "matrix": result.rows}
    print(json.dumps(found, indent=2))
    write_file(HERE / "results" / "known_transfer.json", (json.dumps(found, indent=2) + "\n").encode())
    figure.savefig(HERE / "results" / "known_transfer.png", dpi=110)


if __name__ == "__main__":
    main()
