"""A user's mistake ends with a message and an exit code, never with a traceback."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest

Command = Callable[..., tuple[int, str, str]]

MINIMAL = """\
name: mine
data:
  rows: {{path: rows.csv}}
backbone: {{kind: minilm}}
tasks:
  mood: {{label: mood}}
{more}
"""


@pytest.fixture
def experiment(write: Callable[..., Path]) -> Callable[..., Path]:
    """Write an experiment on a file of rows."""

    def make(more: str = "", rows: str | bytes = "text,mood\ngood,yes\nbad,no\nfine,yes\npoor,no\nfair,yes\n") -> Path:
        write("rows.csv", rows)
        return write("mine.yaml", MINIMAL.format(more=more))

    return make


def test_every_misspelt_key_is_told_with_its_place(command: Command, experiment: Callable[..., Path]) -> None:
    file = experiment("trainign: {epochs: 2}\noptimizer: {kind: heads_and_backbone, head_lr: 1}\n")
    code, _, error = command("plan", file)
    assert code == 2
    assert error.splitlines() == [
        f"error: {file}:8:39: optimizer.head_lr: unknown key; did you mean heads_lr?",
        f"error: {file}:7:1: trainign: unknown key; did you mean training?",
    ]


def test_a_pattern_that_matches_nothing_is_told_with_the_nearest_name(
    command: Command, experiment: Callable[..., Path]
) -> None:
    file = experiment("freeze: {kind: all_except, patterns: [layer.6.ffn]}")
    code, _, error = command("plan", file)
    assert code == 2
    assert error == (
        f"error: {file}:7:1: freeze: pattern 'layer.6.ffn' matches no parameter of the backbone; "
        "did you mean layer.5.ffn?\n"
    )


@pytest.mark.slow
def test_a_monitor_that_does_not_exist_is_told_by_the_plan(command: Command, experiment: Callable[..., Path]) -> None:
    file = experiment("training: {monitor: validation/loss}")
    code, _, error = command("plan", file)
    assert code == 2
    assert f"{file}:7:12: training.monitor: there is no metric 'validation/loss', only training/loss" in error
    assert "there are no validation rows: set split.validation or a validation file" in error


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"text,mood\ngood,yes\nb\xe9te,no\n", "rows.csv:3: byte 20 (0xe9) is not utf-8; set `encoding`"),
        ("text,mood\ngood,yes\nbad\n", "rows.csv:3: the row should have 2 fields as the header has, but has 1"),
        ("text,moood\ngood,yes\n", "rows.csv:2: mood: there is no such column, only text, moood; did you mean moood?"),
        (
            "text,mood\na,yes\nb,no\nc,no\nd,no\ne,maybe\n",
            "rows.csv:6: mood: label 'maybe' of task mood does not occur",
        ),
    ],
)
def test_faulty_rows_end_with_code_3(
    command: Command, experiment: Callable[..., Path], rows: str | bytes, message: str
) -> None:
    code, _, error = command("plan", experiment(rows=rows))
    assert code == 3
    assert message in error


def test_an_output_folder_that_exists_is_refused_before_training(
    command: Command, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    code, _, error = command("train", experiment(), "--output", "taken")
    assert code == 5
    assert error.startswith("error: taken exists already; nothing is overwritten")


@pytest.mark.slow
def test_diverging_training_ends_with_code_1_and_says_when(command: Command, experiment: Callable[..., Path]) -> None:
    file = experiment("tracking: {enabled: false}\noptimizer: {kind: uniform, lr: 1e30}\ntraining: {batch_size: 2}")
    code, _, error = command("train", file)
    assert code == 1
    assert "error: training diverged in epoch 1, step 2: mood is nan; learning rates: all 1e+30" in error


def test_a_place_that_cannot_be_written_is_told_before_training(
    command: Command, experiment: Callable[..., Path], write: Callable[..., Path]
) -> None:
    write("file", "")
    code, out, error = command("train", experiment(), "--output", "file/model")
    assert code == 5
    assert error.startswith("error: file/model could not be written: ")
    assert "epoch" not in out


def test_a_store_that_cannot_be_written_is_told_at_once(command: Command, experiment: Callable[..., Path]) -> None:
    file = experiment("tracking: {uri: sqlite:////proc/mlflow.db}")
    started = perf_counter()
    code, _, error = command("train", file)
    assert code == 5
    assert "the MLflow store sqlite:////proc/mlflow.db cannot be used: no file can be made in /proc: No such" in error
    assert perf_counter() - started < 10


def test_bytes_that_are_no_text_are_refused(
    command: Command, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = command("predict", "nowhere", "--file", write("texts", b"bad \xff"))
    assert code == 2
    assert "must be UTF-8 text" in error
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bad \xff")))
    code, _, error = command("predict", "nowhere")
    assert code == 2
    assert "standard input must be UTF-8 text" in error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "nowhere", "a text"], 5, "nowhere is not a trained model: it holds no model.json"),
        (["predict", "nowhere", "a text", "--format", "xml"], 2, "'xml' is not one of"),
        (["plan", "nowhere.yaml", "--format", "jsonl"], 2, "'jsonl' is not one of"),
        (["predict", "nowhere", "a text", "--file", "texts"], 2, "give texts either as arguments or with --file"),
        (["predict", "nowhere", "--file", "texts"], 5, "texts cannot be read: No such file or directory"),
        (["encode", "nowhere", "a text", "--output", "x.pkl"], 2, "--output must end in .npy or .parquet, got x.pkl"),
        (["plan", "nowhere.yaml"], 2, "nowhere.yaml: an experiment file must be readable UTF-8 text"),
        (["comapre"], 2, "No such command 'comapre'. Did you mean 'compare'?"),
    ],
)
def test_mistakes_on_the_command_line(command: Command, arguments: list[str], code: int, message: str) -> None:
    found, _, error = command(*arguments)
    assert found == code
    assert message in error
    assert "Traceback" not in error


def test_a_monitor_that_cannot_be_read_is_told_where_it_stands(
    command: Command, experiment: Callable[..., Path]
) -> None:
    file = experiment("training: {monitor: 'maen(training/loss)'}")
    code, _, error = command("plan", file)
    assert code == 2
    assert f"{file}:7:12: training.monitor: 'maen(training/loss)' is not an objective: there is no function" in error
