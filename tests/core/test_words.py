"""What is measured and drawn of heads that name the class of each word."""

import csv
import io
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import Tensor

from topwork.interfaces.head import Metric
from topwork.interfaces.labels import NO_LABEL, WordLabels
from topwork.words import decode_words, find_spans, mark_spans, word_figures, word_metrics

BIO = ("O", "B-a", "I-a", "B-b", "I-b")
LABELS = WordLabels(BIO)


def numbers_of(texts: Sequence[Sequence[str | None]]) -> Tensor:
    """Targets (N, S) of the classes of words; None has no label, as what is behind the last word."""
    targets = torch.full((len(texts), max(map(len, texts))), NO_LABEL)
    for row, text in zip(targets, texts, strict=True):
        row[: len(text)] = torch.tensor([NO_LABEL if name is None else BIO.index(name) for name in text])
    return targets


def outputs_of(texts: Sequence[Sequence[str]]) -> Tensor:
    """Outputs (N, S, C) that say these classes."""
    return torch.nn.functional.one_hot(numbers_of(texts).clamp(min=0), len(BIO)).float()


def measure(metrics: Sequence[Metric], outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {metric.name: float(metric.total(metric.compute(outputs, targets))) for metric in metrics}


TRUE: list[list[str | None]] = [["B-a", "I-a", "O", "B-b"], ["O", "B-b"], ["B-a"]]
FOUND = [["B-a", "I-a", "B-b", "O"], ["O", "B-a"], ["B-a", "O", "O"]]


def test_accuracy_and_f1_are_of_all_words_together() -> None:
    found = measure(word_metrics(LABELS), outputs_of(FOUND), numbers_of(TRUE))
    true = [name for text in TRUE for name in text]
    predicted = [name for text, wanted in zip(FOUND, TRUE, strict=True) for name in text[: len(wanted)]]
    assert found["accuracy"] == pytest.approx(4 / 7)
    assert found["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))


def test_spans_are_right_where_both_ends_and_the_type_are() -> None:
    found = measure(word_metrics(LABELS), outputs_of(FOUND), numbers_of(TRUE))
    assert found["span_precision"] == pytest.approx(2 / 4)
    assert found["span_recall"] == pytest.approx(2 / 4)
    assert found["span_f1"] == pytest.approx(2 / 4)


def test_words_without_a_label_count_nowhere() -> None:
    true: list[list[str | None]] = [["B-a", None, "I-a", None], [None, "O"]]
    found = [["B-a", "B-b", "I-a", "B-b"], ["B-b", "O"]]
    assert measure(word_metrics(LABELS), outputs_of(found), numbers_of(true)) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "span_f1": 1.0,
        "span_precision": 1.0,
        "span_recall": 1.0,
    }


def test_where_no_span_is_predicted_the_precision_is_0_as_the_recall_is() -> None:
    found = measure(word_metrics(LABELS), outputs_of([["O", "O"]]), numbers_of([["O", "B-a"]]))
    assert (found["span_precision"], found["span_recall"], found["span_f1"]) == (0.0, 0.0, 0.0)
    found = measure(word_metrics(LABELS), outputs_of([["O", "B-a"]]), numbers_of([["O", "O"]]))
    assert (found["span_precision"], found["span_recall"], found["span_f1"]) == (0.0, 0.0, 0.0)


def test_what_does_not_exist_has_no_f1() -> None:
    found = measure(word_metrics(LABELS), outputs_of([["O"]]), numbers_of([["O"]]))
    assert found["accuracy"] == found["macro_f1"] == 1.0
    assert all(found[name] != found[name] for name in ("span_f1", "span_precision", "span_recall"))


@pytest.mark.parametrize(
    ("names", "marked"),
    [
        (BIO, True),
        (("O", "S-a", "B-a", "E-a"), True),
        (("O", "I-a"), True),
        (("NOUN", "VERB"), False),
        (("B-a", "I-a"), False),  # no word is outside
        (("O", "B-a", "X"), False),
    ],
)
def test_spans_are_measured_where_all_classes_mark_them(names: tuple[str, ...], marked: bool) -> None:
    assert mark_spans(names) is marked
    assert ("span_f1" in [metric.name for metric in word_metrics(WordLabels(names))]) is marked


@pytest.mark.parametrize(
    ("classes", "spans"),
    [
        ("B-a I-a B-a O I-a", {("a", 0, 1), ("a", 2, 2), ("a", 4, 4)}),
        ("I-a I-a B-a I-b", {("a", 0, 1), ("a", 2, 2), ("b", 3, 3)}),  # IOB1
        ("S-a S-a B-a I-a E-a", {("a", 0, 0), ("a", 1, 1), ("a", 2, 4)}),  # BIOES
        ("U-a B-a L-a L-a", {("a", 0, 0), ("a", 1, 2), ("a", 3, 3)}),  # BILOU
        ("B-a E-a I-a", {("a", 0, 1), ("a", 2, 2)}),
        ("B-a-b I-a-b", {("a-b", 0, 1)}),
        ("O O", set()),
    ],
)
def test_spans_are_found_in_every_scheme(classes: str, spans: set[tuple[str, int, int]]) -> None:
    assert find_spans(tuple(classes.split())) == spans


SPANS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.integers(0, 2)), max_size=5)


@given(SPANS)
def test_what_is_written_in_bio_and_in_bioes_is_found(parts: list[tuple[str, int, int]]) -> None:
    bio, bioes, spans = list[str](), list[str](), set()
    for kind, length, gap in parts:
        spans.add((kind, len(bio), len(bio) + length - 1))
        bio += [f"B-{kind}", *[f"I-{kind}"] * (length - 1), *["O"] * gap]
        bioes += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
        bioes += ["O"] * gap
    assert find_spans(tuple(bio)) == find_spans(tuple(bioes)) == spans


def test_each_word_has_a_label_and_probabilities() -> None:
    decoded = decode_words(LABELS)(outputs_of([["O", "B-a"]]) * 100)
    assert decoded.labels == [("O", "B-a")]
    assert decoded.probabilities is not None
    assert decoded.probabilities.argmax(dim=2).tolist() == [[0, 1]]


def test_figures_are_of_words_and_of_types_of_spans() -> None:
    figures = {figure.name: figure for figure in word_figures(LABELS)}
    assert list(figures) == ["confusion", "per_class", "per_span"]
    given = outputs_of(FOUND), numbers_of(TRUE), LABELS
    for figure in figures.values():
        figure.draw(*given).savefig(io.BytesIO(), format="png")
    table = figures["per_span"].table
    assert table is not None
    rows = list(csv.DictReader(io.StringIO(table(*given))))
    assert [(row["name"], row["rows"], row["predicted"], row["recall"]) for row in rows] == [
        ("a", "2", "3", "1"),
        ("b", "2", "1", "0"),
    ]
    per_class = figures["per_class"].table
    assert per_class is not None
    assert [row["rows"] for row in csv.DictReader(io.StringIO(per_class(*given)))] == ["2", "2", "1", "2", "0"]
    assert [figure.name for figure in word_figures(WordLabels(("X", "Y")))] == ["confusion", "per_class"]
