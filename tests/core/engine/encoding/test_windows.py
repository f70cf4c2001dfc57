"""A long text is read in windows that overlap, and its vector is the mean of theirs, wherever they come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoding_helpers import CPU, assert_same, read, texts_read
from model_helpers import pooled_by_whole
from run_helpers import small
from topwork.engine.encoding.corpus import make_corpus
from topwork.engine.encoding.windows import windowing_tokenizer
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model_folder import load_model
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError, DataError
from topwork.experiment.schema import Experiment, Window
from topwork.lab.runs import train as train_once
from topwork.testing.tiny import letter_tokenizer
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]


@given(st.text("ab", min_size=1, max_size=60), st.integers(3, 12), st.data())
def test_windows_are_the_tokens_of_the_text_each_with_those_that_it_shares(
    text: str, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, length - 3))
    corpus = make_corpus(letter_tokenizer(length), {"train": [texts_read([text])]}, stride=stride)
    assert corpus.windows is not None
    ids = letter_tokenizer(1000).encode(text).ids
    first, *inner, last = ids
    room = length - 2
    rebuilt: list[int] = []
    for number in corpus.windows.values.tolist():
        begin, *found, end = corpus.sequences.token_ids.take(torch.tensor([number])).values.tolist()
        assert (begin, end) == (first, last)
        assert len(found) <= room
        assert found[: stride if rebuilt else 0] == rebuilt[len(rebuilt) - stride :][: len(found)] if rebuilt else True
        rebuilt += found[stride if rebuilt else 0 :]
    assert rebuilt == inner
    assert corpus.text_lengths.tolist() == [int(corpus.sequences.lengths[corpus.windows.values].sum())]
    assert corpus.size.divided == (len(inner) > room)


def test_equal_windows_and_equal_texts_are_read_once() -> None:
    texts = texts_read(["abcdab", "ab", "abcdab", None])
    corpus = make_corpus(letter_tokenizer(4), {"train": [texts]}, stride=0)
    assert corpus.windows is not None
    assert corpus.text_ids["train"].tolist() == [[0], [1], [0], [-1]]
    assert corpus.windows.lengths.tolist() == [3, 1]
    assert corpus.windows.values.tolist() == [0, 1, 0, 0]
    size = corpus.size
    assert (size.texts, size.distinct_texts, size.divided, size.truncated) == (7, 2, 2, 0)


@pytest.mark.parametrize("stride", [30, 31])
def test_windows_must_have_room_for_more_than_they_share(stride: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        windowing_tokenizer(letter_tokenizer(32), stride)
    assert str(caught.value) == (
        f"window.stride must be less than 30, the tokens of a text in a window of max_length 32, but is {stride}"
    )


def test_a_tokenizer_that_truncates_nothing_has_no_windows() -> None:
    tokenizer = letter_tokenizer(32)
    tokenizer.no_truncation()
    with pytest.raises(ConfigurationError, match="truncates no text, so there is nothing to divide; leave out window"):
        windowing_tokenizer(tokenizer, 3)


def test_the_backbones_own_tokenizer_stays_as_it_is() -> None:
    tokenizer = letter_tokenizer(32)
    before = tokenizer.to_str()
    windowing_tokenizer(tokenizer, 3)
    assert tokenizer.to_str() == before


def test_pairs_have_no_windows() -> None:
    with pytest.raises(DataError, match="only single texts are divided into windows, and one is"):
        make_corpus(letter_tokenizer(8), {"train": [texts_read([("a", "b")])]}, stride=1)


CUTS: list[Any] = [
    (ClsConfig(), AllConfig(), "pooled"),
    (LayerMixConfig(layers=(0, 1), each="mean"), AllConfig(), "layers"),
    (ClsConfig(), AllExceptConfig(patterns=("layer.1.ffn",)), "first token"),
    (MeanConfig(), AllExceptConfig(patterns=("layer.1",)), "tokens"),
    (MeanConfig(), AllExceptConfig(patterns=("layer", "embeddings", "positions")), "token ids"),
]


@pytest.fixture
def windowed(make: Make) -> Make:
    """Build the small experiment with texts in windows of twelve tokens, of which four are shared."""

    def build(**parts: Any) -> Experiment:
        experiment = make(**parts)
        backbone = experiment.backbone.model_copy(update={"max_length": 12})
        return experiment.model_copy(update={"window": Window(stride=4), "backbone": backbone})

    return build


@pytest.mark.parametrize(("pooling", "freeze", "keeps"), CUTS)
def test_heads_read_the_mean_of_the_windows(windowed: Make, pooling: Any, freeze: Any, keeps: str) -> None:
    prepared = prepare(windowed(pooling=pooling, freeze=freeze, training={"store": "off"}))
    model, size = prepared.model.eval(), prepared.plan.corpus_size
    assert model.cut.keeps == keeps
    assert size.divided > 0
    assert size.truncated == 0
    outputs = outputs_of(model, read(prepared)[0]["train"], device=CPU)
    tokenizer = windowing_tokenizer(model.backbone.tokenizer, 4)
    for row, text in enumerate(prepared.dataset.splits["train"].texts[:8]):
        first = tokenizer.encode(text)
        vectors = []
        for one in (first, *first.overflowing):
            ids = torch.tensor([one.ids])
            vectors.append(pooled_by_whole(model, ids, torch.ones_like(ids, dtype=torch.bool)))
        pooled = torch.cat(vectors).mean(dim=0, keepdim=True)
        for task, head in model.heads.items():
            torch.testing.assert_close(outputs[task][row : row + 1], head(pooled), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "freeze", "keeps"), CUTS)
def test_training_gives_the_same_bits_with_the_store_and_without(
    windowed: Make, train: Train, pooling: Any, freeze: Any, keeps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    stores = ("off", "off", "off") if keeps == "token ids" else ("off", "require", "require")
    without, built, found = (
        train(windowed(pooling=pooling, freeze=freeze, training={"store": store})) for store in stores
    )
    assert_same(without, built)
    assert_same(without, found)
    assert keeps == "token ids" or found.reports[0].encoded == 0


@pytest.mark.slow
def test_a_saved_model_reads_long_texts_in_windows_too(installed: Path, tmp_path: Path) -> None:
    settings = ["window={stride: 4}", "backbone={kind: tiny, max_length: 12}", "freeze={kind: all}"]
    train_once(small(*settings, "tracking.enabled=false"), output=tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    long = "a long text of many more letters than twelve"
    first = windowing_tokenizer(loaded.model.backbone.tokenizer, 4).encode(long)
    windows = [torch.tensor([one.ids]) for one in (first, *first.overflowing)]
    assert len(windows) > 2
    with torch.no_grad():
        each = [pooled_by_whole(loaded.model, ids, torch.ones_like(ids, dtype=torch.bool)) for ids in windows]
    encoded = torch.from_numpy(loaded.encode([long]))
    torch.testing.assert_close(encoded, torch.cat(each).mean(0, keepdim=True), atol=1e-5, rtol=0)
    assert loaded.predict([long])[0].keys() == loaded.labels.keys()
    with pytest.raises(DataError, match="only single texts are divided into windows"):
        loaded.encode([("a", "b")])


def test_other_settings_of_windows_are_other_texts(make: Make, windowed: Make) -> None:
    assert prepare(make()).corpus.windows is None
    assert prepare(windowed()).corpus.windows is not None
