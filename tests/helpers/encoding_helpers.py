"""Load and compare the activations of an experiment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from topwork.data.texts import Text
from topwork.engine.encoding.corpus import Corpus, TextsRead, make_corpus
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store_decision import StoreDecision
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.prefix import Cut
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation import Preparation
from topwork.experiment.source import SplitName

CPU = torch.device("cpu")

#: A cut that keeps the hidden state of every token.
EVERY_TOKEN = Cut(1, "tokens")


def corpus_of(tokenizer: Tokenizer, *columns: Sequence[Text | None], **splits: Sequence[Text]) -> Corpus:
    """Tokenize columns of training texts, or one column of each split, for heads that read pooled vectors."""
    given: dict[Any, Sequence[Sequence[Text | None]]] = {split: [texts] for split, texts in splits.items()}
    if columns:
        given["train"] = columns
    texts = {split: [texts_read(column) for column in of_split] for split, of_split in given.items()}
    return make_corpus(tokenizer, texts)


def texts_read(
    texts: Sequence[Text | None], *, pooled: Sequence[bool] | None = None, words: Sequence[bool] | None = None
) -> TextsRead:
    """Return a column of texts as heads read them; of None they read nothing."""
    there = np.array([text is not None for text in texts])
    of_words = np.zeros(len(texts), np.bool_) if words is None else np.array(words)
    return TextsRead([text or "" for text in texts], there if pooled is None else np.array(pooled), of_words)


def digests_of(corpus: Corpus) -> Digests:
    """Return what the hidden states of the texts' tokens are filed under."""
    return corpus.sequences.digests(EVERY_TOKEN)


def no_words(texts: int) -> Ragged:
    """Return the places of the words of so many texts that are not divided into words."""
    return Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(texts + 1, dtype=torch.int64))


class Counter(Observer):
    """Counts the tokens that are encoded, and notes each phase."""

    def __init__(self) -> None:
        self.tokens = 0
        self.phases: list[tuple[str, int]] = []

    def begin(self, phase: str, total: int) -> None:
        self.phases.append((phase, total))

    def advance(self, done: int) -> None:
        self.tokens += done


def read(prepared: Preparation, observer: Observer | None = None) -> tuple[dict[SplitName, Examples], EncodingReport]:
    """Load the examples of the only phase."""
    (phase,) = prepared.plan.phases
    return prepared.load_examples(phase, CPU, observer or Observer())


def choose(prepared: Preparation) -> StoreDecision:
    """Decide on the store for the only phase."""
    (phase,) = prepared.plan.phases
    return prepared.decide_store(phase, CPU)


def assert_same(trained: Any, other: Any) -> None:
    """Check that two runs have the same figures, weights and final outputs, to the last bit."""
    metrics, others = ([repr(epoch.metrics) for epoch in one.fit.epochs] for one in (trained, other))  # NaN is NaN
    assert others == metrics
    assert other.fit.best_epoch == trained.fit.best_epoch
    weights, others = trained.model.state_dict(), other.model.state_dict()
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert trained.data.keys() == other.data.keys()
    for split in trained.data:
        outputs = outputs_of(trained.model, trained.data[split], device=CPU)
        other_outputs = outputs_of(other.model, other.data[split], device=CPU)
        assert all(torch.equal(outputs[task], other_outputs[task]) for task in outputs)


def pieces(activations: Ragged) -> list[Tensor]:
    """The activation of each text."""
    return list(activations.values.split(activations.lengths.tolist()))
