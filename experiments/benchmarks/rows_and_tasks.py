# python experiments/benchmarks/rows_and_tasks.py reviews.txt
"""How the cost grows with rows and with tasks, for DistilBERT's real shape, CLS pooling, 20 epochs, batches of 20.

More rows extend what is stored, and more tasks on the same rows encode nothing. Writes results/rows_and_tasks.json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from frozen_prefix import make_experiment, make_folder, run, stored_bytes

from topwork.files import write_file

HERE = Path(__file__).parent


def main() -> None:
    """Measure 500, 2,000 and 4,000 rows, and then 1, 2 and 4 tasks on the first 500."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "distilbert")
        os.environ["TOPWORK_CACHE"] = temporary
        for rows, tasks in ((500, 2), (2000, 2), (4000, 2), (500, 1), (500, 2), (500, 4)):
            labels = ["sentiment", "category"]
            heads = {f"task{n}": {"label": labels[n % 2], "head": {"kind": "classification"}} for n in range(tasks)}
            settings = [f"data.reviews.limit={rows}", f"tasks={json.dumps(heads)}"]
            figures = run(make_experiment(folder, arguments.reviews.absolute(), "cls", *settings))
            table.append({"rows": rows, "tasks": tasks, **figures, "bytes_on_disk": stored_bytes(Path(temporary))})
            print(json.dumps(table[-1]), flush=True)
    write_file(HERE / "results" / "rows_and_tasks.json", (json.dumps(table, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
