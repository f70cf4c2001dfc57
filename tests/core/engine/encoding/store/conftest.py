"""Activation stores with made-up contents, and small DistilBERTs in the Hub's layout."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import DistilBertConfig, DistilBertModel

from store_helpers import add
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60))]


@pytest.fixture(scope="session")
def key() -> Key:
    """The key of made-up activations."""
    return Key({"backbone": "made.Up", "stages": ["embeddings", "layer.0.ffn"], "keeps": "tokens", "dtype": "float32"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The cache folder that TOPWORK_CACHE names."""
    return tmp_path / "cache"


@pytest.fixture
def open_store(root: Path, key: Key) -> Callable[[], ActivationStore]:
    """Open the store as another process would: with nothing known of it."""
    return lambda: ActivationStore(root, key)


@pytest.fixture(scope="session")
def digests_of() -> Callable[[Iterable[int]], Digests]:
    """Make the digests of numbered texts."""
    return lambda numbers: Digests.of([hashlib.sha256(str(number).encode()).digest() for number in numbers])


@pytest.fixture(scope="session")
def random_ragged() -> Callable[..., Ragged]:
    """Make activations of the given lengths from random bits, so that all kinds of floats occur."""

    def make(lengths: Sequence[int], *, width: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
        generator = torch.Generator().manual_seed(seed)
        size = (sum(lengths), width * dtype.itemsize)
        bits = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        return Ragged(bits.view(dtype), offsets_of(torch.tensor(lengths)))

    return make


@pytest.fixture(scope="session")
def bits_of() -> Callable[[tuple[Tensor, Tensor]], list[bytes]]:
    """Return the bytes of each sequence in a batch, which compare NaN with NaN as well."""

    def read(batch: tuple[Tensor, Tensor]) -> list[bytes]:
        values, mask = batch
        lines = zip(values, mask, strict=True)
        return [line[seen].contiguous().view(torch.uint8).numpy().tobytes() for line, seen in lines]

    return read


@pytest.fixture
def fill(open_store: Callable[[], ActivationStore], digests_of: Callable[..., Digests]) -> Callable[..., None]:
    """Add activations of texts numbered from ``first`` as one shard."""

    def fill(activations: Ragged, *, first: int = 0) -> None:
        store = open_store()
        with store.building(lambda: None):
            add(store, digests_of(range(first, first + len(activations.lengths))), activations)

    return fill


@pytest.fixture(scope="session")
def make_distilbert() -> Callable[..., Path]:
    """Write a small DistilBERT with random weights and a tokenizer of 60 words, ``w0`` to ``w59``."""

    def make(folder: Path, *, hidden_dim: int = 64) -> Path:
        torch.manual_seed(0)
        shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40}
        DistilBertModel(DistilBertConfig(vocab_size=len(WORDS), hidden_dim=hidden_dim, **shape)).save_pretrained(folder)
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        marks = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        return folder

    return make
