"""What each command prints and writes."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet
import pytest

import topwork

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
SMALL = ["--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false"]
TEXTS = ["The singer is wonderful.", "The zoom is broken, although the lens is a pleasure."]


def test_plan_shows_groups_cut_and_cost(command: Command) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", "pooling.kind=cls")
    assert code == 0
    assert ["backbone", "6", "1,182,336", "5e-05", "0.01"] in [line.split() for line in out.splitlines()]
    assert "cut: before layer.5.ffn; the 12 stages left of it run once" in out
    assert "kept: first token of each text, 1.5 kB per text, 1.1 MB in all" in out
    assert "111.6 times less arithmetic per epoch" in out


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        ("all", "cut: behind the pooling; the 13 stages left of it run once"),
        ("none", "cut: before the first stage, since it trains; every epoch runs the whole backbone"),
    ],
)
def test_plan_says_where_the_cut_is_when_all_or_nothing_is_frozen(command: Command, freeze: str, said: str) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", f"freeze={{kind: {freeze}}}")
    assert code == 0
    assert said in out


def test_plan_says_what_the_store_has(command: Command) -> None:
    line = re.compile(r"^store: .*$", re.MULTILINE)
    _, before, _ = command("plan", QUICKSTART, *SMALL)
    code, _, _ = command("train", QUICKSTART, *SMALL)
    assert code == 0
    _, after, _ = command("plan", QUICKSTART, *SMALL)
    _, more, _ = command("plan", QUICKSTART, *SMALL, "--set", "data.reviews.limit=110")
    (empty,), (full,), (partly,) = line.findall(before), line.findall(after), line.findall(more)
    assert re.fullmatch(r"store: 0 of 100 distinct texts are there; 100 will be encoded, [\d.]+ MB", empty)
    assert full == "store: 100 of 100 distinct texts are there"
    assert re.fullmatch(r"store: 100 of 110 distinct texts are there; 10 will be encoded, [\d.]+ kB", partly)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("training.store=off", "store: not used: training.store is off"),
        ("freeze={kind: none}", "store: not used: the first stage trains, so there is nothing to keep"),
        ("freeze={kind: last_layers, count: 6}", "store: not used: it would not pay: with 0 operations per byte"),
    ],
)
def test_plan_says_why_the_store_is_not_used(command: Command, setting: str, said: str) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", setting)
    assert code == 0
    assert said in out


def test_plan_writes_nothing(command: Command, tmp_path: Path) -> None:
    command("plan", QUICKSTART)
    assert list(tmp_path.iterdir()) == []


def test_plan_shows_a_table_for_each_phase(command: Command) -> None:
    freeze = "freeze={kind: gradual, start: 1, every: 3, most: 3}"
    code, out, _ = command("plan", QUICKSTART, "--set", freeze)
    assert code == 0
    headings = ["what trains from epoch 1", "what trains from epoch 4", "what trains from epoch 7", "tasks"]
    places = [out.index(heading) for heading in headings]
    assert places == sorted(places)
    tables = [out[start:end].split() for start, end in pairwise(places)]
    sizes = [table[table.index("backbone") + 1 :][:2] for table in tables]
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    assert sizes == [[str(16 * layers), f"{layer * layers:,}"] for layers in (1, 2, 3)]
    frozen = [int(table[table.index("frozen") + 1].replace(",", "")) for table in tables]
    assert [more - fewer for fewer, more in pairwise(frozen)] == [-layer, -layer]
    for first, suffix, stages in ((1, 5, 11), (4, 4, 9), (7, 3, 7)):
        said = out[out.index(f"\nfrom epoch {first}:\n") :].splitlines()
        assert said[2] == f"cut: before layer.{suffix}.attention; the {stages} stages left of it run once"
        assert said[5].startswith("store: 0 of ")


SPEED = r"in \d+\.\d s, [\d,.]+ texts/s"


def test_train_says_how_many_texts_the_store_had(command: Command) -> None:
    _, first, _ = command("train", QUICKSTART, *SMALL)
    _, second, _ = command("train", QUICKSTART, *SMALL)
    _, more, _ = command("train", QUICKSTART, *SMALL, "--set", "data.reviews.limit=110")
    built = re.search(
        rf"^100 texts encoded {SPEED}, 0 found; kept in the store, ([0-9a-f]{{12}})$", first, re.MULTILINE
    )
    assert built
    assert f"0 texts encoded, 100 found; kept in the store, {built[1]}" in second.splitlines()
    assert re.search(rf"^10 texts encoded {SPEED}, 100 found; kept in the store, {built[1]}$", more, re.MULTILINE)
    (folder,) = (Path(os.environ["TOPWORK_CACHE"]) / "activations").iterdir()
    assert folder.name.startswith(built[1])


def test_train_says_why_nothing_is_stored(command: Command) -> None:
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "training.store=off")
    assert re.search(rf"^100 texts encoded {SPEED}, 0 found; not stored: training.store is off$", out, re.MULTILINE)


def test_train_says_that_activations_do_not_fit_the_memory(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "training.store=off")
    said = "activations exceed the free memory and are computed for each batch; not stored: training.store is off"
    assert said in out.splitlines()


@pytest.mark.slow
def test_train_says_that_nothing_is_kept_where_all_trains(command: Command) -> None:
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "freeze={kind: none}")
    assert "no activations are kept: the first stage trains" in out.splitlines()


def test_a_required_store_that_cannot_serve_ends_with_code_5(command: Command) -> None:
    code, _, error = command(
        "train", QUICKSTART, *SMALL, "--set", "freeze={kind: none}", "--set", "training.store=require"
    )
    assert code == 5
    assert error.endswith("training.store is require, but the first stage trains, so there is nothing to keep\n")


def test_train_prints_results_with_intervals_and_where_they_are(
    command: Command, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    code, out, _ = command("train", QUICKSTART, "--set", "training.epochs=1", "--set", "data.reviews.limit=100")
    assert code == 0
    assert "epoch   1   sentiment: training loss " in out
    assert "test rows, weights of epoch 1 of 1" in out
    assert "95 % interval" in out
    folder = next(line for line in out.splitlines() if line.startswith("model: ")).removeprefix("model: ")
    assert topwork.load_model(folder).predict(TEXTS)
    assert f"topwork ui --uri {store_uri}" in out


def test_evaluate_measures_the_test_rows_of_the_experiment_again(command: Command, trained: Path) -> None:
    code, out, _ = command("evaluate", trained)
    assert code == 0
    assert "test rows of the experiment" in out
    assert out.count("180") == 4


def test_evaluate_reads_other_rows_like_the_training_rows(
    command: Command, trained: Path, write: Callable[..., Path]
) -> None:
    file = write(
        "more.csv", "text,category,sentiment\nThe singer is dull.,music,neg\nThe zoom is reliable.,camera,pos\n"
    )
    code, out, _ = command("evaluate", trained, file)
    assert code == 0
    assert f"all rows of {file}" in out


def test_predict_prints_a_table_of_labels_and_probabilities(command: Command, trained: Path) -> None:
    code, out, _ = command("predict", trained, *TEXTS)
    assert code == 0
    header, first, second = (line.split() for line in out.splitlines())
    assert header == ["text", "sentiment", "p", "category", "p"]
    assert first[:4] == TEXTS[0].split()
    assert "music" in first
    assert "camera" in second


def test_predict_writes_csv_that_reads_back(command: Command, trained: Path) -> None:
    _, out, _ = command("predict", trained, *TEXTS, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["category"] for row in rows] == ["music", "camera"]
    assert all(0.5 <= float(row["sentiment_probability"]) <= 1 for row in rows)


def test_predict_reads_standard_input_and_writes_jsonl(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\ufeff{TEXTS[0]}\n{TEXTS[1]}\n".encode())))
    _, out, _ = command("predict", trained, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert sum(rows[0]["category"]["probabilities"].values()) == pytest.approx(1)


def test_what_looks_like_markup_is_printed_as_it_is(command: Command, trained: Path) -> None:
    code, out, _ = command("predict", trained, "see [red]this[/red] :smile:", "a [/b] c")
    assert code == 0
    assert "see [red]this[/red] :smile:" in out
    assert "a [/b] c" in out


def test_predict_reads_a_file_of_one_text_to_a_line(
    command: Command, trained: Path, write: Callable[..., Path]
) -> None:
    file = write("texts.txt", "\r\n".join(TEXTS))
    _, out, _ = command("predict", trained, "--file", file, "--format", "csv")
    assert [row["text"] for row in csv.DictReader(io.StringIO(out))] == TEXTS


def test_encode_writes_the_same_vectors_as_npy_and_as_parquet(command: Command, trained: Path) -> None:
    _, out, _ = command("encode", trained, *TEXTS, "--output", "vectors.npy")
    assert out == "vectors.npy: 2 vectors of width 384\n"
    command("encode", trained, *TEXTS, "--output", "vectors.parquet")
    vectors = np.load("vectors.npy", allow_pickle=False)
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    table = pyarrow.parquet.read_table("vectors.parquet").to_pydict()
    assert table["text"] == TEXTS
    assert np.array_equal(np.array(table["vector"], dtype=np.float32), vectors)


def test_plugins_lists_every_shipped_kind_with_its_defaults(command: Command) -> None:
    code, out, _ = command("plugins")
    assert code == 0
    assert "heads_and_backbone  topwork  0.1.0    heads_lr=0.001, backbone_lr=5e-05, weight_decay=0.01" in out
    assert [line.split("  ")[0] for line in out.splitlines()].count("freeze strategy") == 5


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin whose module is not there."""
    info = tmp_path / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[topwork]\nbroken = not_there\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_plugins_ends_with_code_4_when_one_is_broken(command: Command, broken: None) -> None:
    code, out, error = command("plugins")
    assert code == 4
    assert "minilm" in out
    assert error.startswith("error: plugin 'broken' of package broken 0.1 is broken: ModuleNotFoundError: No module")


def test_a_broken_plugin_that_is_not_needed_is_said_and_stops_nothing(
    command: Command, broken: None, caplog: pytest.LogCaptureFixture
) -> None:
    code, out, _ = command("plan", QUICKSTART)
    assert code == 0
    assert "what trains" in out
    assert "plugin 'broken' of package broken 0.1 is broken" in caplog.text


def test_version_is_that_of_the_package(command: Command) -> None:
    code, out, _ = command("--version")
    assert (code, out) == (0, "0.1.0\n")
