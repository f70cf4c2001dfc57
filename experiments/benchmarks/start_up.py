# python experiments/benchmarks/start_up.py
"""How long topwork takes to start, with no other plugins installed and with thirty.

Each of the thirty is a package of its own with one head, as ``topwork new`` writes it, found by its entry point. A
command runs in a process of its own; the figure is the median of nine, with and without them in turn. Writes
results/start_up.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from topwork.cli.new_plugin import fill, values_of

HERE = Path(__file__).parent

PLUGINS, TIMES = 30, 9

COMMANDS = {
    "import topwork": ["-c", "import topwork"],
    "topwork --help": ["-m", "topwork.cli", "--help"],
    "topwork plugins": ["-m", "topwork.cli", "plugins"],
}


def install(site: Path, number: int) -> None:
    """Install a package with one head, as far as Python's import system can tell."""
    values = values_of("head", "head", f"kind_{number}", contract="HeadContract")
    (site / f"{values['module']}.py").write_text(fill("head.py", values))
    metadata = site / f"{values['module']}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {values['package']}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[topwork]\n{values['package']} = {values['module']}\n")


def seconds(command: list[str], site: Path) -> float:
    """Run Python with more packages, and return how long it took."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print and write."""
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        none, thirty = Path(temporary) / "none", Path(temporary) / "thirty"
        none.mkdir()
        thirty.mkdir()
        for number in range(PLUGINS):
            install(thirty, number)
        for name, command in COMMANDS.items():
            pairs = [(seconds(command, none), seconds(command, thirty)) for _ in range(TIMES)]
            before, after = (median(times) for times in zip(*pairs, strict=True))
            figures[name] = {
                "seconds": round(before, 3),
                f"seconds with {PLUGINS}": round(after, 3),
                "ratio": round(median(after / before for before, after in pairs), 3),
            }
            print(name, figures[name])
    (HERE / "results" / "start_up.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
