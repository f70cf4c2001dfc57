"""``topwork encode-corpus`` says what is stored, and who encoded it."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from small_experiment import QUICKSTART, SMALL
from topwork.cli import show_corpus as module
from topwork.cli.format import Format
from topwork.cli.show_corpus import show_corpus
from topwork.experiment.loading import load_experiment
from topwork.lab.encode_corpus import StoredCorpus

Command = Callable[..., tuple[int, str, str]]

CORPUS = StoredCorpus(
    texts=5000,
    tokens=60_000,
    encoded=2000,
    seconds=4.0,
    folders=(Path("/cache/activations/one"),),
    bytes=5_120_000,
    device="cuda:1",
    difference=2.5e-6,
    claims="hard links",
    lock="flock",
)


@pytest.fixture
def small(installed: Path) -> list[object]:
    """The arguments of a small experiment: 80 rows, two of which repeat another."""
    return [QUICKSTART, *(part for one in [*SMALL, "training.store=require"] for part in ("--set", one))]


def test_what_is_stored_is_told_and_train_reads_it(command: Command, small: list[object]) -> None:
    code, out, err = command("encode-corpus", *small)
    assert code == 0, err
    assert "stored: 78 distinct texts, " in out
    assert "encoded here: 78 on cpu in " in out
    assert "claims by hard links; folders are locked by flock" in out
    code, out, _ = command("encode-corpus", *small)
    assert "encoded here: 0 on cpu in " in out
    assert "; 78 were there, or came from other processes" in out


def test_it_is_written_for_programs(command: Command, small: list[object]) -> None:
    code, out, _ = command("encode-corpus", *small, "--format", "json")
    report = json.loads(out)
    assert (code, report["texts"], report["encoded"], report["difference"]) == (0, 78, 78, None)
    (folder,) = report["folders"]
    _, out, _ = command("encode-corpus", *small, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["texts"], row["encoded"], row["folders"]) == ("78", "0", folder)


def test_a_typo_is_told_before_anything_is_read(command: Command) -> None:
    code, _, err = command("encode-corpus", QUICKSTART, "--set", "data.reviews.txt=a")
    assert code == 2
    assert "data.reviews.txt: unknown key; did you mean text?" in err


def test_of_a_gpu_it_is_told_how_far_it_is_from_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: Path
) -> None:
    monkeypatch.setattr(module, "encode_corpus", lambda experiment, observer: replace(CORPUS))
    show_corpus(load_experiment(QUICKSTART, SMALL), QUICKSTART, Format.TABLE)
    out = capsys.readouterr().out
    assert "encoded here: 2,000 on cuda:1 in 4.0 s, 500 texts/s; 3,000 were there" in out
    assert "the CPU's activations differ from these by up to 2.5e-06; they are kept apart" in out
