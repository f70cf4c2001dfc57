# python experiments/benchmarks/encoding_processes.py
"""Several processes encode one corpus of 20,000 distinct texts into one store, and are killed.

What one process stores is compared to the last byte with what two and four store together, also where some are killed
at random moments, and on a folder where flock always fails. Writes results/encoding_processes.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from generated import write_experiment

from topwork.files import write_file

HERE = Path(__file__).parent

#: A Python in which flock fails as it does on file systems that have none.
NO_FLOCK = """\
import errno, fcntl, os
def flock(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""

#: Seconds after which processes that do not end count as hanging.
PATIENCE = 900.0


@dataclass(frozen=True)
class Corpus:
    """An experiment to encode.

    Attributes:
        file: of the experiment.
        tools: a folder for what makes flock fail.
    """

    file: Path
    tools: Path

    def start(self, cache: Path, *, flock: bool = True) -> subprocess.Popen[str]:
        """Start a process that encodes into a cache folder."""
        path = [str(self.tools)] * (not flock) + [os.environ.get("PYTHONPATH", "")]
        environment = {"TOPWORK_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
        command = [sys.executable, "-m", "topwork", "encode-corpus", str(self.file), "--format", "json"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=pipe, stderr=pipe, text=True)

    def encode(self, cache: Path, processes: int, *, flock: bool = True) -> list[dict[str, Any]]:
        """Let so many processes encode; return what each printed."""
        started = [self.start(cache, flock=flock) for _ in range(processes)]
        return [finished(process) for process in started]

    def encode_and_kill(self, cache: Path, processes: int, draw: random.Random, *, flock: bool = True) -> bool:
        """Kill one of so many processes a random while after it has begun; return whether it was still at work."""
        started = [self.start(cache, flock=flock) for _ in range(processes)]
        until = monotonic() + PATIENCE
        while not list(cache.glob("activations/*/claims/*-*.*")) and monotonic() < until:
            sleep(0.01)
        sleep(draw.uniform(0, 1.5))
        victim = draw.choice(started)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        for process in started:
            if process is not victim:
                finished(process)
        return victim.returncode == -signal.SIGKILL


def make_corpus(folder: Path, texts: int) -> Corpus:
    """Write an experiment with so many texts."""
    tools = folder / "tools"
    file = write_experiment(folder / "experiment", texts)
    tools.mkdir()
    (tools / "sitecustomize.py").write_text(NO_FLOCK)
    return Corpus(file, tools)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process, and return what it printed."""
    out, err = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}: {err}")
    return {**json.loads(out), "stderr": err}


def stored(cache: Path) -> Mapping[str, bytes]:
    """Return all files of the store."""
    files = [path for path in (cache / "activations").rglob("*") if path.is_file()]
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


def main(given: Sequence[str] | None = None) -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args(given)
    draw, figures = random.Random(0), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = make_corpus(folder, arguments.texts)
        corpus.encode(folder / "one", 1)
        whole = stored(folder / "one")
        for flock in (True, False):
            for processes in (1, 2, 4):
                cache, started = folder / f"{processes} {flock}", perf_counter()
                rows = corpus.encode(cache, processes, flock=flock)
                at_work = max(row["seconds"] for row in rows)
                figures.append(
                    {"processes": processes, "flock": flock, "seconds": perf_counter() - started, "encoding": at_work}
                    | {"texts": rows[0]["texts"], "encoded": sum(row["encoded"] for row in rows)}
                    | {"equal": stored(cache) == whole}
                )
                print(json.dumps(figures[-1]), flush=True)
            killed = equal = 0
            for number in range(arguments.kills):
                cache = folder / f"killed {number} {flock}"
                killed += corpus.encode_and_kill(cache, 2 + 2 * (number % 2), draw, flock=flock)
                equal += stored(cache) == whole
            figures.append({"flock": flock, "kills": arguments.kills, "at work": killed, "equal": equal})
            print(json.dumps(figures[-1]), flush=True)
    content = json.dumps({"texts": arguments.texts, "figures": figures}, indent=2)
    write_file(HERE / "results" / "encoding_processes.json", f"{content}\n".encode())


if __name__ == "__main__":
    main()
