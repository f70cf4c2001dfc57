"""Killed processes, two processes at once, damaged files and full disks: a run ends with the figures it should have."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks import small_disk

BUILDER = Path(__file__).parent / "builder.py"
QUICKSTART = Path(__file__).parents[5] / "experiments" / "quickstart.yaml"
SMALL = """\
name: small
data:
  texts: {{path: texts.csv}}
backbone: {{kind: distilbert, model: {model}, max_length: 30}}
pooling: {{kind: mean}}
tasks:
  mood: {{label: mood, head: {{kind: binary, hidden: [8]}}}}
freeze:
  kind: all_except
  patterns: [layer.1.ffn, layer.1.output_layer_norm]
training: {{epochs: 2, device: cpu}}
tracking: {{enabled: false}}
"""

pytestmark = pytest.mark.slow


def write_rows(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "mood"])
        rows.writerows([text, ("bad", "good")[number % 2]] for number, text in enumerate(texts))
    return path


def stored_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "activations").rglob("*") if path.is_file())


def shard_of(root: Path) -> Path:
    (shard,) = (root / "activations").rglob("*.safetensors")
    return shard


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the read after each kill gave; see builder.py. Eight texts of five lengths are five shards and a merge."""
    folder = tmp_path_factory.mktemp("killed")
    texts = ["ab", "abc", "abd", "abcdef", "abcdeg", "abcdefghij", "xbcdefghij", "abcdefghijk"]
    file = write_rows(folder / "texts.csv", texts)
    command = [sys.executable, str(BUILDER), "kill", str(file), str(folder / "caches")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


@pytest.mark.reliability("B21")
def test_builds_are_killed_at_every_change_until_one_ends(killed: list[dict[str, Any]]) -> None:
    assert len(killed) > 50
    assert [step["killed"] for step in killed] == [True] * (len(killed) - 1) + [False]


@pytest.mark.reliability("B21")
def test_after_a_kill_all_activations_are_exact(killed: list[dict[str, Any]]) -> None:
    assert all(step["exact"] and step["where"] == "store" for step in killed)
    assert not [error for step in killed for error in step["errors"]]


@pytest.mark.reliability("B21")
def test_after_a_kill_only_what_is_missing_is_encoded(killed: list[dict[str, Any]]) -> None:
    assert [step["encoded"] for step in killed] == [step["missing_tokens"] for step in killed]
    assert [step["found"] for step in killed] == [step["texts"] - step["missing"] for step in killed]
    assert killed[0]["encoded"] == killed[0]["tokens"]
    partly = {step["encoded"] for step in killed} - {0, killed[0]["tokens"]}
    assert len(partly) == 4  # the first, second, third and fourth shard had been finished


def test_after_a_kill_nothing_is_told_to_be_damaged(killed: list[dict[str, Any]]) -> None:
    assert not [warning for step in killed for warning in step["warnings"]]


@pytest.mark.reliability("B21")
def test_after_a_kill_no_file_is_left_that_the_manifest_does_not_name(killed: list[dict[str, Any]]) -> None:
    left = {number: step["unnamed"] for number, step in enumerate(killed, 1) if step["unnamed"]}
    assert left == {}


class Builder:
    """A process that reads a file's texts through the store of ``root``."""

    def __init__(self, file: Path, root: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(BUILDER), "read", str(file), *options],
            env=os.environ | {"TOPWORK_CACHE": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> dict[str, Any]:
        """Return the next thing that the process says."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Builder]]:
    """Start processes that are stopped when the test ends."""
    started: list[Builder] = []

    def begin(file: Path, *options: str) -> Builder:
        started.append(Builder(file, root, *options))
        return started[-1]

    yield begin
    for builder in started:
        builder.end()


@pytest.fixture
def texts() -> list[str]:
    return ["x" * (number % 7 + 1) + str(number) for number in range(60)]


def one_after_the_other(
    start: Callable[..., Builder], first: Path, second: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let one process encode while another waits, and then that; return what they said at their ends."""
    builder = start(first, "hold")
    assert builder.hear() == {"begins": "reading"}
    assert builder.hear() == {"begins": "encoding (tokens)"}
    other = start(second)
    assert other.hear() == {"begins": "reading"}
    assert other.hear() == {"begins": "waiting for another process that encodes such texts"}
    builder.go_on()
    done = builder.hear()
    said = other.hear()
    return done, other.hear() if said == {"begins": "encoding (tokens)"} else said


@pytest.mark.reliability("B22")
def test_of_two_processes_with_the_same_texts_one_encodes_them(
    start: Callable[..., Builder], texts: list[str], tmp_path: Path, root: Path
) -> None:
    file = write_rows(tmp_path / "texts.csv", texts)
    first, second = one_after_the_other(start, file, file)
    assert first["exact"]
    assert second["exact"]
    assert first["encoded"] == first["tokens"] == second["tokens"]
    assert second["encoded"] == 0
    assert len(stored_files(root)) == 2


@pytest.mark.reliability("B22")
def test_of_two_processes_with_overlapping_texts_each_text_is_encoded_once(
    start: Callable[..., Builder], texts: list[str], tmp_path: Path, root: Path
) -> None:
    front, back = write_rows(tmp_path / "front.csv", texts[:40]), write_rows(tmp_path / "back.csv", texts[20:])
    first, second = one_after_the_other(start, front, back)
    assert first["exact"]
    assert second["exact"]
    assert first["encoded"] + second["encoded"] == sum(len(text) + 2 for text in texts)
    assert second["encoded"] == sum(len(text) + 2 for text in texts[40:])
    assert len(stored_files(root)) == 2


def test_a_text_that_another_process_encoded_meanwhile_counts_as_found(
    start: Callable[..., Builder], texts: list[str], tmp_path: Path
) -> None:
    front, back = write_rows(tmp_path / "front.csv", texts[:40]), write_rows(tmp_path / "back.csv", texts[20:])
    first, second = one_after_the_other(start, front, back)
    assert (first["found"], second["found"]) == (0, 20)


@pytest.mark.reliability("B23")
def test_a_process_that_waits_goes_on_when_the_other_is_killed(
    start: Callable[..., Builder], texts: list[str], tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "texts.csv", texts)
    builder = start(file, "hold")
    assert [builder.hear()["begins"] for _ in range(2)] == ["reading", "encoding (tokens)"]
    other = start(file)
    assert [other.hear()["begins"] for _ in range(2)] == [
        "reading",
        "waiting for another process that encodes such texts",
    ]
    builder.process.kill()
    assert other.hear() == {"begins": "encoding (tokens)"}
    result = other.hear()
    assert result["exact"]
    assert result["encoded"] == result["tokens"]


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    out: str
    err: str


RunTopwork = Callable[..., Finished]


@pytest.fixture(scope="module")
def run_topwork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunTopwork]:
    """Run command lines, each in a process of its own that is forked from one with all imports done."""
    folder = tmp_path_factory.mktemp("said")
    server = subprocess.Popen(
        [sys.executable, str(BUILDER), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    numbers = itertools.count()

    def run(
        *arguments: object, root: Path, largest_file: int | None = None, kill_at_manifest: int | None = None
    ) -> Finished:
        number = next(numbers)
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cache": str(root),
            "output": str(out),
            "errors": str(err),
            "largest_file": largest_file,
            "kill_at_manifest": kill_at_manifest,
        }
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())["code"]
        return Finished(code, out.read_text(), err.read_text())

    yield run
    server.communicate()


def figures(run: Finished) -> list[str]:
    """The printed figures of all epochs and of the test rows."""
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ") and "loss" in line]
    table = lines.index(next(line for line in lines if line.startswith("test rows, ")))
    return epochs + [line for line in lines[table:] if line and not line.startswith(("model:", "  topwork"))]


def test_a_training_run_that_is_killed_while_it_encodes_is_run_again(
    run_topwork: RunTopwork, tmp_path: Path, root: Path
) -> None:
    settings = ["--set", "tracking.enabled=false", "--set", "training.epochs=2", "--set", "data.reviews.limit=240"]
    command = [QUICKSTART, *settings, "--output", tmp_path / "model"]
    dead = run_topwork("train", *command, root=root, kill_at_manifest=4)
    assert dead.code == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    again = run_topwork("train", *command, root=root)
    assert "240 texts encoded in " not in again.out
    assert " 0 found" not in again.out
    assert again.err == ""
    clean = run_topwork("train", *command[:-1], tmp_path / "clean", root=tmp_path / "another cache")
    assert "240 texts encoded in " in clean.out
    assert figures(again) == figures(clean)
    assert len(figures(again)) == 10


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, make_distilbert: Callable[..., Path]) -> Path:
    """An experiment on a small DistilBERT whose activations, 1.5 MB, exceed the saved model, 1.1 MB."""
    folder = tmp_path_factory.mktemp("small")
    make_distilbert(folder / "model", hidden_dim=2048)
    words = [
        " ".join(f"w{(7 * number + 13 * place) % 60}" for place in range(20)) + f" w{number % 60}" * (number // 60)
        for number in range(450)
    ]
    write_rows(folder / "texts.csv", words)
    file = folder / "small.yaml"
    file.write_text(SMALL.format(model=folder / "model"))
    return file


@pytest.fixture(scope="module")
def clean(run_topwork: RunTopwork, small: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The figures of the small experiment in a clean cache."""
    folder = tmp_path_factory.mktemp("clean")
    run = run_topwork("train", small, "--output", folder / "model", root=folder / "cache")
    assert run.err == ""
    assert "kept in the store" in run.out
    return figures(run)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_shard_that_is_damaged_between_two_runs_is_told_and_encoded_again(
    run_topwork: RunTopwork, small: Path, clean: list[str], tmp_path: Path, root: Path, damage: str
) -> None:
    first = run_topwork("train", small, "--output", tmp_path / "first", root=root)
    shard = shard_of(root)
    content = shard.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
    shard.write_bytes(flipped if damage == "flipped" else content[:-1000])
    second = run_topwork("train", small, "--output", tmp_path / "second", root=root)
    (warning,) = second.err.splitlines()
    assert warning.startswith(f"warning: activation store: {shard} is damaged: ")
    assert "texts encoded in" in second.out
    assert " 0 found" in second.out
    assert figures(first) == figures(second) == clean
    assert shard_of(root).read_bytes() == content


def test_where_a_shard_cannot_be_written_training_goes_on_in_memory(
    run_topwork: RunTopwork, small: Path, clean: list[str], tmp_path: Path, root: Path
) -> None:
    run = run_topwork("train", small, "--output", tmp_path / "model", root=root, largest_file=1_300_000)
    (warning,) = run.err.splitlines()
    assert warning.startswith("warning: going on without adding to the activation store: ")
    assert warning.endswith(" could not be written: File too large")
    assert "not stored: " in run.out
    assert figures(run) == clean
    assert stored_files(root) == []


def test_where_a_shard_cannot_be_written_but_must_be_training_ends(
    run_topwork: RunTopwork, small: Path, tmp_path: Path, root: Path
) -> None:
    command = ["train", small, "--set", "training.store=require", "--output", tmp_path / "model"]
    run = run_topwork(*command, root=root, largest_file=1_300_000)
    assert run.code == 5
    (error,) = run.err.splitlines()
    assert error.startswith(f"error: {root / 'activations'}")
    assert error.endswith(" could not be written: File too large")
    assert stored_files(root) == []
    assert not (tmp_path / "model").exists()


@pytest.mark.reliability("B27")
def test_a_disk_without_room_is_left_alone(
    run_topwork: RunTopwork, small: Path, clean: list[str], tmp_path: Path
) -> None:
    with small_disk("size=1m") as disk:
        run = run_topwork("train", small, "--output", tmp_path / "model", root=disk / "cache")
        assert "not stored: it needs " in run.out
        assert figures(run) == clean
        assert list(disk.iterdir()) == []
        must = ["train", small, "--set", "training.store=require", "--output", tmp_path / "another"]
        refused = run_topwork(*must, root=disk / "cache")
    assert refused.code == 5
    assert "training.store: require, but it needs " in refused.err
    assert "set TOPWORK_CACHE to a folder with more room" in refused.err


@pytest.mark.reliability("B27")
def test_a_disk_that_is_full_all_of_a_sudden_does_not_end_training(
    run_topwork: RunTopwork, small: Path, clean: list[str], tmp_path: Path
) -> None:
    with small_disk("size=10m,nr_inodes=6") as disk:
        run = run_topwork("train", small, "--output", tmp_path / "model", root=disk / "cache")
        (warning,) = run.err.splitlines()
        assert warning.startswith("warning: going on without adding to the activation store: ")
        assert warning.endswith(" could not be written: No space left on device")
        assert figures(run) == clean
        assert stored_files(disk / "cache") == []
