"""``topwork evaluate``, ``predict`` and ``encode``."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from topwork.cli.format import ExportFormat, Format, PredictionFormat
from topwork.cli.output import needs_ascii, rows_of_estimates, write_csv, write_json
from topwork.cli.tables import console, show_estimates, table
from topwork.engine.model_folder import load_model
from topwork.engine.trained_model import Prediction
from topwork.errors import ConfigurationError, StorageError, reason_of
from topwork.files import write_file


def show_evaluation(model: Path, file: Path | None, source: str | None, format: Format, *, trust_plugins: bool) -> None:
    """Print every metric of the tasks that read a source, with its interval."""
    figures, which = load_model(model, trust_plugins=trust_plugins).evaluate(file, source=source)
    if format is Format.TABLE:
        show_estimates(figures, which)
    elif format is Format.CSV:
        write_csv(rows_of_estimates(figures))
    else:
        write_json({"rows": which, "metrics": rows_of_estimates(figures)})


def show_predictions(
    model: Path, texts: Sequence[str], file: Path | None, format: PredictionFormat, *, trust_plugins: bool
) -> None:
    """Print a label with its probability for each text and task."""
    texts = read_texts(texts, file)
    predictions = load_model(model, trust_plugins=trust_plugins).predict(texts)
    if format in (PredictionFormat.JSON, PredictionFormat.JSONL):
        described = [
            {"text": text, **{task: _described(one) for task, one in prediction.items()}}
            for text, prediction in zip(texts, predictions, strict=True)
        ]
        if format is PredictionFormat.JSON:
            write_json(described)
            return
        for one in described:
            print(json.dumps(one, ensure_ascii=needs_ascii()))
        return
    tasks = list(dict.fromkeys(task for prediction in predictions for task in prediction))
    rows = [
        (text, [cell for task in tasks for cell in _cells(prediction.get(task))])
        for text, prediction in zip(texts, predictions, strict=True)
    ]
    if format is PredictionFormat.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["text", *(f"{task}{suffix}" for task in tasks for suffix in ("", "_probability"))])
        writer.writerows([text, *cells] for text, cells in rows)
    else:
        shown = table("text", *(column for task in tasks for column in (task, "#p")))
        for text, cells in rows:
            shown.add_row(text if len(text) <= 60 else f"{text[:57]}...", *cells)
        console.print(shown)


def write_vectors(model: Path, texts: Sequence[str], file: Path | None, output: Path, *, trust_plugins: bool) -> None:
    """Write pooled vectors (N, W) as .npy, or with their texts as .parquet."""
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigurationError(f"--output must end in .npy or .parquet, got {output}")
    texts = read_texts(texts, file)
    vectors = load_model(model, trust_plugins=trust_plugins).encode(texts)
    buffer = io.BytesIO()
    if output.suffix == ".npy":
        np.save(buffer, vectors, allow_pickle=False)
    else:
        import pyarrow
        import pyarrow.parquet

        flat = pyarrow.array(vectors.reshape(-1))
        columns = {"text": texts, "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
        pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    write_file(output, buffer.getvalue())
    console.print(f"{output}: {vectors.shape[0]:,} vectors of width {vectors.shape[1]}")


def write_export(model: Path, format: ExportFormat, output: Path, *, trust_plugins: bool) -> None:
    """Write a model for other software."""
    from topwork.engine.export import export_onnx, export_transformers

    trained = load_model(model, trust_plugins=trust_plugins)
    write = export_onnx if format is ExportFormat.ONNX else export_transformers
    console.print(f"{output}: within {write(trained, output):.1g} of what the model gives")


def read_texts(texts: Sequence[str], file: Path | None) -> list[str]:
    """Take texts from the arguments, a file, or standard input, which ``-`` names too; there one to a line.

    Raises:
        ConfigurationError: both are given, or the input is not UTF-8.
        StorageError: the file cannot be read.
    """
    if texts and file:
        raise ConfigurationError("give texts either as arguments or with --file")
    if list(texts) == ["-"]:
        texts = []
    if texts:
        return list(texts)
    try:
        content = (file.read_bytes() if file else sys.stdin.buffer.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file or 'standard input'} must be UTF-8 text: {error}") from None
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {reason_of(error)}") from None
    lines = content.removesuffix("\n").split("\n") if content else []
    return [line.removesuffix("\r") for line in lines]


def _described(prediction: Prediction) -> dict[str, object]:
    """Return a prediction as JSON values; numbers have no probabilities."""
    return {name: value for name, value in asdict(prediction).items() if value is not None}


def _cells(prediction: Prediction | None) -> tuple[str, str]:
    """Return a label and its probability as text: the latter only of a class, neither of what a task does not read."""
    if prediction is None:
        return "", ""
    label, probabilities = prediction.label, prediction.probabilities
    if isinstance(label, str):
        return label, f"{probabilities[label]:.3f}" if isinstance(probabilities, dict) else ""
    if isinstance(label, tuple) and prediction.words is not None:
        return " ".join(f"{word}/{name}" for word, name in zip(prediction.words, label, strict=True)), ""
    if isinstance(label, tuple):
        return " | ".join(label), ""
    if isinstance(label, dict):
        return ", ".join(f"{name} {number:.4g}" for name, number in label.items()), ""
    return f"{label:.4g}", ""
