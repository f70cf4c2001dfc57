# python experiments/benchmarks/mixed_precision.py reviews.txt
"""What does bfloat16 in the frozen part save, and what does it do to test figures?

The published recipe on MiniLM with `backbone.precision` float32 and bfloat16, over the same seeds, on the first 400
reviews, compared on the 3,600 others as `topwork compare` does. Writes results/mixed_precision.json, with the
processor's instructions for bfloat16 and the texts that each encodes in a second.
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from topwork import load_experiment
from topwork.engine.model.mixed_precision import bfloat16_instructions
from topwork.engine.observer import EncodingReport, Observer
from topwork.files import write_file
from topwork.lab.comparison import compare
from topwork.lab.runs import train_seeds

HERE = Path(__file__).resolve().parent
PRECISIONS = ("float32", "bfloat16")


class Speed(Observer):
    """Notes how fast texts were encoded."""

    texts_per_second = 0.0

    def encoded(self, report: EncodingReport) -> None:
        self.texts_per_second = report.texts_per_second or self.texts_per_second


def main() -> None:
    """Train both ways, compare, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = [f"data.reviews.path={arguments.reviews.resolve()}", "data.reviews.limit=null"]
    rows += ["data.reviews.split={test: 0.9}", f"training.seeds={list(range(arguments.seeds))}"]
    file = HERE.parent / "reference_minilm.yaml"
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        os.chdir(temporary)
        tracked = [f"tracking.uri=sqlite:///{temporary}/mlflow.db", "tracking.log_model=false"]
        speeds = {precision: Speed() for precision in PRECISIONS}
        runs = [
            train_seeds(load_experiment(file, [*rows, *tracked, f"backbone.precision={one}"]), observer=speeds[one])
            for one in PRECISIONS
        ]
        compared = compare([run.name for run in runs], uri=f"sqlite:///{temporary}/mlflow.db")
    result = {
        "instructions": bfloat16_instructions(),
        "texts_per_second": {precision: speed.texts_per_second for precision, speed in speeds.items()},
        "metrics": {
            name: {
                precision: {"mean": one.value, "sd": one.sd}
                for precision, one in zip(PRECISIONS, estimates, strict=True)
            }
            | {"difference": asdict(compared.differences[name][0])}
            for name, estimates in compared.estimates.items()
        },
    }
    write_file(HERE / "results" / "mixed_precision.json", (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
