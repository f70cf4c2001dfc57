"""``topwork evaluate``, ``predict`` and ``encode`` use a trained model on texts and rows."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
REVIEWS = QUICKSTART.parent / "data" / "synthetic_reviews.csv"


SMALL = ["--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false"]


TEXTS = ["The singer is wonderful.", "The zoom is broken, although the lens is a pleasure."]


@pytest.mark.slow
def test_evaluate_measures_the_test_rows_of_the_experiment_again(command: Command, trained: Path) -> None:
    code, out, _ = command("evaluate", trained, REVIEWS)
    assert code == 0
    assert "test rows of the experiment" in out
    assert out.count("180") == 6


@pytest.mark.slow
def test_evaluate_prints_for_programs_too(command: Command, trained: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(command("evaluate", trained, REVIEWS, "--format", "csv")[1])))
    result = json.loads(command("evaluate", trained, REVIEWS, "--format", "json")[1])
    assert result["rows"] == "test rows of the experiment"
    assert [float(row["value"]) for row in rows] == [row["value"] for row in result["metrics"]]


def test_a_hyphen_names_standard_input(command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    said = json.loads(command("predict", trained, "-", "--format", "json")[1])
    assert [one["text"] for one in said] == TEXTS
    assert set(said[0]) == {"text", "sentiment", "category"}


def test_evaluate_reads_no_file_because_a_model_names_it(command: Command, trained: Path) -> None:
    code, out, err = command("evaluate", trained)
    assert (code, out) == (2, "")
    assert err == f"error: give a file with rows to measure; the experiment's are in {REVIEWS}\n"


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_export_writes_a_folder_and_says_how_near_it_is(command: Command, trained: Path) -> None:
    _, out, _ = command("export", trained, "--format", "transformers", "--output", "exported")
    assert out.startswith("exported: within ")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in Path("exported").iterdir()}
