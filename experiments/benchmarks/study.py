# python experiments/benchmarks/study.py reviews.txt
"""What a study of the learning-rate pair costs, against as many runs of the published recipe's loop.

DistilBERT's real shape with random weights (speed does not depend on them), the first 500 reviews, `lr_pair.yaml` as it
is: 30 trials of 20 epochs in 2 workers, tracked in MLflow, with nothing stored before. The study is measured whole, as
a command in a process of its own. Of the published loop, on the same rows, one epoch and one evaluation are measured;
a run is 20 such epochs and one evaluation. Writes results/study.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import optuna
import torch
from frozen_prefix import EPOCHS, make_folder
from others import reference_loop

from topwork import load_experiment
from topwork.engine.preparation import prepare
from topwork.files import write_file

HERE = Path(__file__).parent
FILE = HERE.parent / "lr_pair.yaml"


def settings_of(folder: Path, reviews: Path) -> list[str]:
    """What to set over lr_pair.yaml."""
    return [f"backbone.model={folder}", f"data.reviews.path={reviews}", "training.store=require", "training.device=cpu"]


def run_study(folder: Path, reviews: Path, workplace: Path) -> dict[str, Any]:
    """Run the command in an empty folder, and read the seconds of its parts from what it kept."""
    options = [part for setting in settings_of(folder, reviews) for part in ("--set", setting)]
    environment = {**os.environ, "TOPWORK_CACHE": str(workplace / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "topwork.cli", "study", str(FILE), *options]
    started = perf_counter()
    printed = subprocess.run(command, cwd=workplace, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds = perf_counter() - started
    print(printed.stdout, flush=True)
    encoding = next(line for line in printed.stdout.splitlines() if " texts encoded in " in line)
    storage = f"sqlite:///{workplace / 'studies' / 'lr-pair' / 'study.db'}"
    study = optuna.load_study(study_name="lr-pair", storage=storage)
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return {
        "seconds": seconds,
        "trials": len(trials),
        "encoding_seconds": float(encoding.split(" texts encoded in ")[1].split(" s")[0]),
        "training_seconds_in_all_workers": sum(trial.user_attrs["training_seconds"] for trial in trials),
        "seconds_in_all_trials": sum(trial.duration.total_seconds() for trial in trials if trial.duration),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    reviews = arguments.reviews.absolute()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "distilbert")
        experiment = load_experiment(FILE, settings_of(folder, reviews))
        assert experiment.study is not None
        workplace = Path(temporary) / "workplace"
        workplace.mkdir()
        study = run_study(folder, reviews, workplace)
        reference = reference_loop(folder, prepare(experiment), "cls")
    workers = experiment.study.workers
    reference["seconds"] = EPOCHS * reference["epoch_seconds"] + reference["evaluation_seconds"]
    work = study["encoding_seconds"] + study["training_seconds_in_all_workers"] / workers
    results = {
        "study_ratio": study["trials"] * reference["seconds"] / study["seconds"],
        "overhead_share": 1 - work / study["seconds"],
        "workers": workers,
        "study": study,
        "reference": reference,
        "machine": {
            "threads": arguments.threads,
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
    }
    write_file(HERE / "results" / "study.json", (json.dumps(results, indent=2) + "\n").encode())
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
