"""The head that names the class of each word."""

import pytest
import torch

import topwork
from topwork_plugins.heads.tagging import TaggingConfig

LABELS = topwork.WordLabels(("NOUN", "VERB", "ADJ"))


def test_the_loss_is_the_mean_over_the_words_that_have_a_label() -> None:
    head = TaggingConfig().build(8, LABELS)
    outputs = torch.randn(2, 3, 3)
    targets = torch.tensor([[0, 2, topwork.NO_LABEL], [topwork.NO_LABEL, 1, topwork.NO_LABEL]])
    likely = outputs.log_softmax(dim=2)
    expected = -(likely[0, 0, 0] + likely[0, 1, 2] + likely[1, 1, 1]) / 3
    assert head.loss(outputs, targets).item() == pytest.approx(expected.item())


def test_every_word_passes_through_the_same_layers() -> None:
    module = TaggingConfig(hidden=(4,)).build(8, LABELS).module
    words, mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(module(words, mask)[1, 2], module(words[1:, 2:], mask[1:, 2:])[0, 0])


def test_spans_are_measured_where_classes_mark_them() -> None:
    names = [metric.name for metric in TaggingConfig().build(8, topwork.WordLabels(("O", "B-x"))).metrics]
    assert names == ["accuracy", "macro_f1", "span_f1", "span_precision", "span_recall"]
    assert [metric.name for metric in TaggingConfig().build(8, LABELS).metrics] == ["accuracy", "macro_f1"]
