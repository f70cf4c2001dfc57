"""What reading holds in memory does not grow with the number of rows."""

import subprocess
import sys
from pathlib import Path

import pytest

#: Reads a file, and prints how much memory that no file stands behind the process has at most, in bytes.
READ = """
import sys, threading
from pathlib import Path
from topwork.data.dataset import load_dataset
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.experiment.source import Source, Split
from topwork.interfaces.labels import Classes, Numbers

def held():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

read, most = threading.Event(), [0]
def watch():
    while not read.wait(0.01):
        most.append(max(most.pop(), held()))

watcher = threading.Thread(target=watch)
watcher.start()
tasks = {name: LabelColumns((name,), LabelFormat(), spaces=(space,)) for name, space in
    {"mood": Classes, "score": Numbers}.items()}
split = Split(validation=0.1, test=0.1, method="stratified", by="mood")
dataset = load_dataset({"rows": Source(path=Path(sys.argv[1]), split=split)}, {"rows": tasks})
read.set()
watcher.join()
assert sum(len(rows.texts) for rows in dataset.splits.values()) == int(sys.argv[2])
print(max(most[0], held()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say what memory no file stands behind")
def test_a_row_takes_less_memory_than_its_text(tmp_path: Path) -> None:
    counts, held = (50_000, 200_000), []
    for count in counts:
        path = tmp_path / f"{count}.csv"
        rows = (f"{number} {'a text of some words ' * 10},{'abcd'[number % 4]},{number}\n" for number in range(count))
        path.write_text("".join(["text,mood,score\n", *rows]), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", READ, path, str(count)], capture_output=True, check=True, text=True
        )
        held.append(int(done.stdout))
    assert (held[1] - held[0]) / (counts[1] - counts[0]) < 100
