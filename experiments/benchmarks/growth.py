# python experiments/benchmarks/growth.py
"""How seconds, memory, disk and files grow with the number of texts, from a thousand to a million.

The texts are short and generated, and the frozen backbone has two small random layers, so that encoding does not hide
the rest. Each number of texts is trained on for three epochs twice, in a process of its own with one thread: cold, so
that all is encoded, and warm, from the store. Memory is the most that a process has of its own at any time (RssAnon),
beside files that are mapped. Writes results/growth.json and docs/figures/growth.png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from generated import write_experiment

from topwork.files import write_file

HERE = Path(__file__).parent
FIGURE = HERE.parents[1] / "docs" / "figures" / "growth.png"

SIZES = (1_000, 10_000, 100_000, 1_000_000)

#: Seconds between two looks at the memory.
LOOK = 0.02


class Memory:
    """Looks, again and again, at how many bytes this process has of its own."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        """Return the most that it had."""
        self._over.set()
        self._thread.join()
        return self.most

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            self.most = max(self.most, own_bytes())


def own_bytes() -> int:
    """How many bytes this process has of its own, without files that are mapped."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(line.split()[1])


def train(file: Path) -> dict[str, float]:
    """Prepare, encode or read, and train, all of it on the clock; return what that took."""
    from frozen_prefix import run, stored_bytes

    import topwork
    from topwork.engine.encoding.store_decision import decide_store
    from topwork.engine.preparation import prepare
    from topwork.engine.training.accelerator import make_accelerator

    memory, started, began = Memory(), perf_counter(), process_time()
    experiment = topwork.load_experiment(file)
    figures = run(experiment)
    figures |= {"whole_seconds": perf_counter() - started, "processor_seconds": process_time() - began}
    figures["bytes_of_memory"] = memory.finish()
    prepared = prepare(experiment)
    job = prepared.encoding_job(prepared.plan.phases[0], make_accelerator(experiment.training).device)
    assert len(job.digests)  # found once for all that follows
    opened = perf_counter()
    decide_store(job)
    cache = Path(os.environ["TOPWORK_CACHE"])
    files = [path for path in (cache / "activations").rglob("*") if path.is_file()]
    return {
        **figures,
        "opening_seconds": perf_counter() - opened,
        "bytes_on_disk": stored_bytes(cache),
        "files": len(files),
        "texts": len(job.digests),
    }


def measure(texts: int) -> list[dict[str, Any]]:
    """Train on so many texts, cold and warm."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        file = write_experiment(Path(temporary) / "experiment", texts)
        environment = {**os.environ, "TOPWORK_CACHE": str(Path(temporary) / "cache"), "OMP_NUM_THREADS": "1"}
        for state in ("cold", "warm"):
            command = [sys.executable, __file__, "--train", str(file)]
            printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append({"train_rows": texts, "store": state, **json.loads(printed.splitlines()[-1])})
            print(json.dumps(found[-1]), flush=True)
    return found


def draw(rows: list[dict[str, Any]]) -> bytes:
    """Draw seconds and memory over the number of texts."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for state, marker in (("cold", "o"), ("warm", "s")):
        some = [row for row in rows if row["store"] == state]
        texts = [row["texts"] for row in some]
        seconds.plot(texts, [row["processor_seconds"] for row in some], marker=marker, label=f"{state} store")
        memory.plot(texts, [row["bytes_of_memory"] / 1e6 for row in some], marker=marker, label=f"{state} store")
    seconds.set(xscale="log", yscale="log", xlabel="distinct texts", ylabel="processor seconds, three epochs")
    memory.set(xscale="log", xlabel="distinct texts", ylabel="memory beside mapped files (MB)")
    memory.set_ylim(0, 1.15e-6 * max(row["bytes_of_memory"] for row in rows))
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train(arguments.train)))
        return
    rows = [row for texts in arguments.sizes for row in measure(texts)]
    if tuple(arguments.sizes) == SIZES:
        write_file(HERE / "results" / "growth.json", (json.dumps(rows, indent=2) + "\n").encode())
        write_file(FIGURE, draw(rows))


if __name__ == "__main__":
    main()
