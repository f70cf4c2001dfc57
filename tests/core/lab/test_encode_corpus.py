"""Any number of processes encode one corpus into one store, whoever of them dies."""

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoding_processes import Corpus, make_corpus, stored

from small_experiment import QUICKSTART, SMALL
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Training
from topwork.lab.encode_corpus import device_of, difference_from_cpu, encode_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "made", 3000)


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process stores."""
    cache = tmp_path_factory.mktemp("whole")
    (row,) = corpus.encode(cache, 1)
    assert (row["encoded"], row["texts"], row["lock"], row["claims"]) == (5000, 5000, "flock", "hard links")
    return dict(stored(cache))


@pytest.mark.slow
@pytest.mark.parametrize("flock", [True, False], ids=["flock", "no flock"])
def test_several_processes_store_what_one_does_to_the_last_byte_and_no_text_twice(
    corpus: Corpus, whole: dict[str, bytes], tmp_path: Path, flock: bool
) -> None:
    rows = corpus.encode(tmp_path, 3, flock=flock)
    assert stored(tmp_path) == whole
    assert sum(row["encoded"] for row in rows) == 5000
    assert {row["lock"] for row in rows} == {"flock" if flock else "claims, since flock does not work there"}


@pytest.mark.slow
@pytest.mark.parametrize("flock", [True, False], ids=["flock", "no flock"])
def test_where_one_is_killed_the_others_store_what_it_would_have(
    corpus: Corpus, whole: dict[str, bytes], tmp_path: Path, flock: bool
) -> None:
    draw = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", 0))
    corpus.encode_and_kill(tmp_path, 2, draw, flock=flock)
    assert stored(tmp_path) == whole


@pytest.mark.slow
def test_under_torchrun_the_first_process_alone_prints(corpus: Corpus, whole: dict[str, bytes], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "topwork", "encode-corpus", str(corpus.file)]
    environment = {**os.environ, "TOPWORK_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("stored: 5,000 distinct texts, ") == 1
    assert stored(tmp_path) == whole


def test_what_is_stored_serves_the_run() -> None:
    said = list[str]()

    class Listening(Observer):
        def begin(self, phase: str, total: int) -> None:
            said.append(phase)

    experiment = load_experiment(QUICKSTART, [*SMALL, "training.store=require"])
    corpus = encode_corpus(experiment, observer=Listening())
    assert corpus.texts == corpus.encoded > 0
    assert (corpus.device, corpus.difference) == ("cpu", None)
    assert said == ["encoding (tokens)"]
    prepared = prepare(experiment)
    stored_for_it = prepared.decide_store(prepared.plan.phases[0], torch.device("cpu")).stored
    assert stored_for_it is not None
    assert not len(stored_for_it.missing)
    (entry,) = list_entries(cache_folder())
    assert (entry.folder,) == corpus.folders
    again = encode_corpus(experiment)
    assert again == dataclasses.replace(corpus, encoded=0, seconds=again.seconds)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("training.store=off", "training.store is off"),
        ("freeze={kind: none}", "the first stage trains, so there is nothing to keep"),
        ("training.epochs=2", r"it would not pay: .*; to store it all the same set training.store: require"),
    ],
)
def test_where_nothing_can_be_stored_it_is_told_why(change: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"training.store: nothing can be stored: {why}"):
        encode_corpus(load_experiment(QUICKSTART, [*SMALL, change]))


def test_a_study_gets_the_cuts_that_it_searches() -> None:
    search = "study={search: {pooling: {choices: [{kind: cls}, {kind: mean}]}}, objective: sentiment/accuracy}"
    corpus = encode_corpus(load_experiment(QUICKSTART, [*SMALL, "training.store=require", search]))
    assert len(corpus.folders) == 2


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of(Training(device="cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of(Training()) == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match="process of local rank 3 has none: this machine offers 2 GPUs; start"):
        device_of(Training())


def test_the_difference_of_a_device_from_the_cpu_is_measured() -> None:
    prepared = prepare(load_experiment(QUICKSTART, SMALL))
    assert difference_from_cpu(prepared.encoding_job(prepared.plan.phases[0], torch.device("cpu"))) == 0.0
