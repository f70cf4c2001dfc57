"""A process that gets texts through the activation store; it can wait, and it can kill itself at a given moment.

    python builder.py read FILE [hold]    Read the texts of FILE; with ``hold``, wait for a line before encoding.
    python builder.py kill FILE FOLDER    Read them again and again, killed at every change below FOLDER in turn.
    python builder.py serve               Run the ``topwork`` command lines that are given as JSON, one to a line.

The first two use a tiny encoder with random weights, always the same ones. All print JSON, one object to a line.
"""

import itertools
import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from topwork.cli import main as topwork_main
from topwork.engine.encoding import activations
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries
from topwork.engine.encoding.store.key import make_key
from topwork.engine.encoding.store.manifest import MANIFEST
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.experiment.schema import Experiment, Task, Training
from topwork.experiment.source import Source
from topwork.testing import TinyBackboneConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.mean import MeanConfig
from topwork_plugins.samplers.proportional import ProportionalConfig

CPU = torch.device("cpu")
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.link"}


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def prepare_file(file: Path) -> Preparation:
    """Prepare the tiny experiment on a file with the columns ``text`` and ``mood``."""
    return prepare(
        Experiment(
            name="tiny",
            data={"texts": Source(path=file)},
            backbone=TinyBackboneConfig(),
            pooling=MeanConfig(),
            tasks={"mood": Task(label="mood", head=BinaryConfig())},
            freeze=AllExceptConfig(patterns=("layer.1.ffn", "layer.1.output_layer_norm")),
            optimizer=HeadsAndBackboneConfig(),
            sampling=ProportionalConfig(),
            weighting=FixedConfig(),
            training=Training(device="cpu", store="require"),
        )
    )


class Teller(Observer):
    """Says what begins, and may wait for a line before it lets texts be encoded."""

    def __init__(self, *, hold: bool) -> None:
        self.hold = hold
        self.encoded = 0

    def begin(self, phase: str, total: int) -> None:
        say(begins=phase)
        if phase.startswith("encoding"):
            self.encoded += total
            if self.hold:
                sys.stdin.readline()


def read(prepared: Preparation, observer: Observer) -> dict[str, Any]:
    """Read all texts, and say whether their activations are the encoder's."""
    rows, got = prepared.load_examples(prepared.plan.phases[0], CPU, observer)
    everything = torch.arange(prepared.plan.corpus_size.distinct_texts)
    values, mask = rows["train"].activations.batch(everything)
    expected, expected_mask = encode(prepared.model.prefix, prepared.corpus.sequences, device=CPU).batch(everything)
    exact = torch.equal(mask, expected_mask) and torch.equal(values[mask], expected[mask])
    return {"exact": exact, "where": got.where, "texts": got.texts, "found": got.found}


def read_file(file: Path, *, hold: bool) -> None:
    prepared, observer = prepare_file(file), Teller(hold=hold)
    say(begins="reading")
    result = read(prepared, observer)
    say(**result, encoded=observer.encoded, tokens=prepared.plan.corpus_size.distinct_tokens)


def kill_at_change(number: int, folder: Path) -> None:
    """Kill this process right before the given change of something below ``folder``."""
    seen = itertools.count(1)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(args[0]).startswith(str(folder)) and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_at_manifest(number: int) -> None:
    """Kill this process right before a manifest appears for the given time."""
    seen = itertools.count(1)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(args[1]).endswith(MANIFEST) and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class Count(logging.Handler, Observer):
    """Counts the tokens that are encoded and what is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0
        self.warnings: list[str] = []

    def begin(self, phase: str, total: int) -> None:
        self.encoded += total

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())


def kill_everywhere(file: Path, folder: Path) -> None:
    """Read the texts in a process that is killed at its first change of the disk, the second, and so on to the last.

    After each kill, say what the store held, and read the texts again in a process that is left alone.
    """
    prepared = prepare_file(file)
    lengths = prepared.corpus.sequences.lengths
    for number in itertools.count(1):
        os.environ["TOPWORK_CACHE"] = str(folder / str(number))
        child = os.fork()
        if not child:
            kill_at_change(number, cache_folder())
            read(prepared, Observer())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        is_finished = Count()
        logging.getLogger("topwork").addHandler(is_finished)
        key = make_key(prepared.model.prefix, prepared.experiment.pooling, dtype=torch.float32, device=CPU)
        missing = (
            ActivationStore(cache_folder(), key)
            .find(prepared.corpus.sequences.digests(prepared.plan.phases[0].cut))
            .missing
        )
        result = read(prepared, is_finished)
        logging.getLogger("topwork").removeHandler(is_finished)
        (entry,) = list_entries(cache_folder())
        assert entry.manifest is not None
        named = {MANIFEST, *(shard.file for shard in entry.manifest.shards)}
        say(
            **result,
            killed=os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            missing=len(missing),
            missing_tokens=int(lengths[missing].sum()),
            encoded=is_finished.encoded,
            tokens=int(lengths.sum()),
            unnamed=sorted(path.name for path in entry.folder.iterdir() if path.name not in named),
            shards=len(entry.manifest.shards),
            warnings=is_finished.warnings,
            errors=entry.errors(),
        )
        if os.WIFEXITED(status):
            return


def run_command(request: dict[str, Any]) -> int:
    """Run a command line in a process of its own and return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.environ["TOPWORK_CACHE"] = request["cache"]
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), number)
    if request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
    if request["kill_at_manifest"]:
        activations.SHARD_SECONDS = 0.0
        kill_at_manifest(request["kill_at_manifest"])
    sys.argv = ["topwork", *request["arguments"]]
    topwork_main()
    os._exit(0)


def main() -> None:
    mode, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    if mode == "read":
        read_file(Path(arguments[0]), hold="hold" in arguments[1:])
    elif mode == "kill":
        activations.SHARD_SECONDS = 0.0  # each batch becomes a shard
        kill_everywhere(Path(arguments[0]), Path(arguments[1]))
    else:
        import transformers.models.distilbert.modeling_distilbert  # noqa: F401  # once for all that is run

        import topwork.cli.show_training  # noqa: F401

        for line in sys.stdin:
            say(code=run_command(json.loads(line)))


if __name__ == "__main__":
    main()
