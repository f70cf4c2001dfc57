"""Words are read at their first tokens, to the same bits with the store and without, whatever else is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor

from encoding_helpers import Counter, assert_same, read, texts_read
from model_helpers import pooled_by_whole
from topwork.data.texts import Words
from topwork.engine.encoding.corpus import make_corpus, tokenize
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.preparation import prepare
from topwork.experiment.schema import Experiment, Task
from topwork.experiment.source import Source, Split
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing.tiny import letter_tokenizer
from topwork_plugins.backbones.minilm import MiniLmConfig, package_folder
from topwork_plugins.backbones.pretrained import prepare_tokenizer
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.tagging import TaggingConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig
from topwork_plugins.poolings.mean import MeanConfig

WORDS = ["a", "plane", "takes", "off", "unbelievably", "and", "don't", "land", "in", "rain"]
CLASSES = ["DET", "NOUN", "VERB", "ADP", "ADV", "CONJ", "VERB", "VERB", "ADP", "NOUN"]


@pytest.fixture(scope="module")
def minilm_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(package_folder() / "tokenizer.json"))
    prepare_tokenizer(tokenizer, 16)
    return tokenizer


def starts_of(ragged: Ragged) -> list[list[int]]:
    return [piece.tolist() for piece in ragged.values.split(ragged.lengths.tolist())]


def tokens_at_starts(tokenizer: Tokenizer, *texts: Words) -> list[list[str]]:
    found = tokenize(tokenizer, texts)
    ids = starts_of(found.token_ids)
    places = starts_of(found.word_starts)
    return [[tokenizer.id_to_token(of_text[place]) for place in at] for of_text, at in zip(ids, places, strict=True)]


def test_a_word_begins_with_its_first_token(minilm_tokenizer: Tokenizer) -> None:
    text = Words(("don't", "unbelievably", "New York", "日本"))
    assert tokens_at_starts(minilm_tokenizer, text) == [["don", "un", "new", "日"]]


def test_texts_whole_have_no_words(minilm_tokenizer: Tokenizer) -> None:
    found = tokenize(minilm_tokenizer, ["a text", Words(("a", "text")), ("a", "pair")])
    assert found.word_starts.lengths.tolist() == [0, 2, 0]
    whole, divided, _ = starts_of(found.token_ids)
    assert whole == divided


@pytest.mark.parametrize("text", [("a", "\u200b", "b"), ("\u200b",), ("\u200b", *"abcdefghijklmnop"), ("a", "\u200d")])
def test_a_word_of_which_the_tokenizer_makes_nothing_is_unknown(
    minilm_tokenizer: Tokenizer, text: tuple[str, ...]
) -> None:
    wanted = ["[UNK]" if word in "\u200b\u200d" else word for word in text][:14]
    assert tokens_at_starts(minilm_tokenizer, Words(text)) == [wanted]


def test_words_behind_the_maximum_length_are_counted(minilm_tokenizer: Tokenizer) -> None:
    long = Words(tuple(["word"] * 20))
    texts = texts_read([long, Words(("a", "b")), Words(tuple("c" * 90))], words=[True, True, False])
    size = make_corpus(minilm_tokenizer, {"train": [texts]}).size
    assert (size.truncated, size.unread_words) == (2, 20 - 14)
    assert (size.distinct_pooled, size.distinct_words) == (3, 16)


def test_long_texts_are_tokenized_no_further_than_they_are_read(minilm_tokenizer: Tokenizer) -> None:
    long = Words(tuple(["word", "x" * 1_000_000] * 1000))
    short = Words(long.words[:40])
    found = tokenize(minilm_tokenizer, [long, short])
    one, other = starts_of(found.token_ids)
    assert one == other
    assert found.truncated.all()


ALPHABET = st.text(st.sampled_from("ab'.\u200b日é "), min_size=1, max_size=9).filter(str.strip)


@given(st.lists(ALPHABET, min_size=1, max_size=30))
def test_every_word_that_is_read_has_a_token(minilm_tokenizer: Tokenizer, words: list[str]) -> None:
    found = tokenize(minilm_tokenizer, [Words(tuple(words))])
    places = starts_of(found.word_starts)[0]
    assert places == sorted(set(places))
    assert places[0] == 1
    assert len(places) == len(words) or found.truncated.all()


def test_a_text_of_which_some_heads_read_words_and_some_do_not_is_one_sequence() -> None:
    tokenizer = letter_tokenizer(32)
    text = Words(("ab", "c"))
    some, words = [False, True, True, True], [True, True, False, False]
    corpus = make_corpus(tokenizer, {"train": [texts_read([text, text, text, "d"], pooled=some, words=words)]})
    assert corpus.text_ids["train"][:, 0].tolist() == [0, 0, 1, 2]
    assert corpus.sequences.pooled.tolist() == [True, True, True]
    assert starts_of(corpus.sequences.word_starts) == [[1, 3], [], []]


def sentence(number: int) -> tuple[list[str], list[str]]:
    places = [(number * step) % len(WORDS) for step in range(1, 3 + number % 6)]
    return [WORDS[place] for place in places], [CLASSES[place] for place in places]


@pytest.fixture
def tagged(make: Callable[..., Experiment], write: Callable[..., Path]) -> Callable[..., Experiment]:
    """Sentences of which one head reads words, and another, on some of them, the pooled vector; and single texts."""
    rows = [
        {"words": sentence(n)[0], "tags": sentence(n)[1], "kind": "ab"[n % 2] if n % 3 else None} for n in range(24)
    ]
    texts = [f"{' '.join(sentence(n)[0])},{'ab'[n % 2]}" for n in range(16)]
    split = Split(validation=0.25, test=0.25)
    data = {
        "sentences": Source(path=write("words.jsonl", "\n".join(map(json.dumps, rows))), words="words", split=split),
        "texts": Source(path=write("texts.csv", "\n".join(["text,mood", *texts])), split=split),
    }
    tasks = {
        "tag": Task(label="tags", source="sentences", head=TaggingConfig(hidden=(4,))),
        "kind": Task(label="kind", source="sentences", missing="skip", head=ClassificationConfig(hidden=(4,))),
        "mood": Task(label="mood", source="texts", head=ClassificationConfig(hidden=(4,))),
    }

    def build(*, training: dict[str, Any], only: tuple[str, ...] = (), **parts: Any) -> Experiment:
        chosen = {name: task for name, task in tasks.items() if not only or name in only}
        sources = {name: one for name, one in data.items() if any(task.source == name for task in chosen.values())}
        return make(data=sources, tasks=chosen, backbone=MiniLmConfig(max_length=16), training=training, **parts)

    return build


FFN = AllExceptConfig(patterns=("layer.5.ffn",))
CUTS: list[Any] = [
    (ClsConfig(), AllConfig(), "pooled"),
    (MeanConfig(), AllConfig(), "pooled"),
    (ClsConfig(), FFN, "first token"),
    (MeanConfig(), FFN, "tokens"),
    (LayerMixConfig(layers=(1, 3, -1)), AllConfig(), "layers"),
    (LayerMixConfig(layers=("embeddings", 5), each="mean"), FFN, "tokens"),
    (LayerMixConfig(layers=(2, 5)), FFN, "first token"),
    (MeanConfig(layer=2), AllConfig(), "pooled"),
    (MeanConfig(layer=2), FFN, "tokens"),
    (ClsConfig(layer=2), FFN, "first token"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "freeze", "keeps", "only"), [*((*cut, ()) for cut in CUTS), *((*cut, ("tag",)) for cut in CUTS[1:4:2])]
)
def test_training_gives_the_same_bits_with_the_store_and_without(
    tagged: Callable[..., Experiment],
    train: Callable[..., Any],
    pooling: PoolingConfig,
    freeze: Any,
    keeps: str,
    only: tuple[str, ...],
) -> None:
    without, built, found = (
        train(tagged(pooling=pooling, freeze=freeze, only=only, training={"store": store}))
        for store in ("off", "require", "require")
    )
    wanted = "first token" if only and keeps == "tokens" else keeps  # the pooling is not asked where words are read
    assert [one.model.cut.keeps for one in (without, built, found)] == [wanted] * 3
    assert [run.reports[0].where for run in (without, built, found)] == ["memory", "store", "store"]
    assert found.reports[0].encoded == 0
    assert_same(without, built)
    assert_same(without, found)


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "freeze", "keeps"), CUTS)
def test_heads_get_what_the_whole_model_gives(
    tagged: Callable[..., Experiment], pooling: PoolingConfig, freeze: Any, keeps: str
) -> None:
    prepared = prepare(tagged(pooling=pooling, freeze=freeze, training={"store": "off"}))
    examples = read(prepared)[0]["train"]
    model, seen = prepared.model.eval(), dict[str, Any]()
    assert model.cut.keeps == keeps
    for task, head in model.heads.items():
        head.register_forward_pre_hook(lambda _, given, task=task: seen.update({task: given}))
    batch = examples.batch(torch.arange(examples.count))
    rows = examples.labelled_rows(torch.arange(examples.count))
    with torch.no_grad():
        model(batch.hidden, batch.mask, batch.inputs)
        for number, row in enumerate(rows["tag"].tolist()):
            words, _ = sentence(row)
            (found,) = (tokenize(model.backbone.tokenizer, [Words(tuple(words))]),)
            ids, mask = found.token_ids.batch(torch.tensor([0]))
            hidden = model.backbone(ids, mask)
            assert seen["tag"][1][number].tolist() == [True] * len(words) + [False] * (7 - len(words))
            wanted = hidden[0, found.word_starts.values]
            torch.testing.assert_close(seen["tag"][0][number, : len(words)], wanted, atol=1e-5, rtol=0)
            assert not seen["tag"][0][number, len(words) :].any()
            if row in rows["kind"]:
                place = rows["kind"].tolist().index(row)
                pooled = pooled_by_whole(model, ids, mask)[0]
                torch.testing.assert_close(seen["kind"][0][place], pooled, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_the_first_tokens_of_words_alone(tagged: Callable[..., Experiment]) -> None:
    prepared = prepare(tagged(pooling=MeanConfig(), freeze=AllConfig(), only=("tag",), training={"store": "off"}))
    size = prepared.plan.corpus_size
    distinct = {tuple(sentence(number)[0]) for number in range(24)}
    assert (size.distinct_pooled, size.distinct_words) == (0, sum(map(len, distinct)))
    assert prepared.plan.kept_bytes(prepared.plan.phases[0]) == size.distinct_words * 384 * 4
    counter = Counter()
    examples, _ = read(prepared, counter)
    assert counter.tokens == size.distinct_tokens
    assert isinstance(activations := examples["train"].activations, Ragged)
    assert len(activations.values) == size.distinct_words


@pytest.mark.slow
def test_a_row_is_encoded_once_for_words_and_for_its_pooled_vector(tagged: Callable[..., Experiment]) -> None:
    prepared = prepare(
        tagged(pooling=MeanConfig(), freeze=AllConfig(), only=("tag", "kind"), training={"store": "off"})
    )
    counter = Counter()
    read(prepared, counter)
    assert counter.tokens == prepared.plan.corpus_size.distinct_tokens
    assert prepared.plan.corpus_size.distinct_texts == len({tuple(sentence(number)[0]) for number in range(24)})


class FirstAndMean(Pooling):
    """A pooling of another width than the hidden states have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = 2 * width

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        real = mask[:, :, None].to(hidden.dtype)
        return torch.cat([hidden[:, 0], (hidden * real).sum(1) / real.sum(1)], dim=1)


class FirstAndMeanConfig(PoolingConfig):
    kind: Literal["first and mean"] = "first and mean"

    def build(self, width: int) -> Pooling:
        return FirstAndMean(width)


@pytest.mark.slow
def test_where_pooled_vectors_are_wider_than_words_all_tokens_are_kept(
    tagged: Callable[..., Experiment], train: Callable[..., Any]
) -> None:
    settings = {"pooling": FirstAndMeanConfig(), "freeze": AllConfig(), "training": {"store": "off"}}
    assert train(tagged(**settings)).model.cut.keeps == "tokens"
    assert train(tagged(**settings, only=("tag",))).model.cut.keeps == "pooled"
    assert train(tagged(**settings, only=("kind",))).model.cut.keeps == "pooled"


def test_a_prefix_is_put_before_words_and_is_none_of_them(minilm_tokenizer: Tokenizer) -> None:
    found = tokenize(minilm_tokenizer, [Words(("New York", "sleeps")), "New York sleeps"], prefix="to find: ")
    divided, whole = starts_of(found.token_ids)
    assert divided == whole
    assert [minilm_tokenizer.id_to_token(whole[place]) for place in starts_of(found.word_starts)[0]] == [
        "new",
        "sleeps",
    ]
