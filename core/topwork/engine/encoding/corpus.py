"""Texts to token ids, equal texts once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.data.texts import Text, Words, parts_of
from topwork.engine.encoding.ragged import Ragged, offsets_of, sequences_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.truncation import Shortener
from topwork.engine.encoding.windows import windowing_tokenizer
from topwork.engine.model.plan import CorpusSize
from topwork.errors import DataError, quote
from topwork.experiment.source import SplitName
from topwork.interfaces.head import Reading


@dataclass(frozen=True)
class TextRead:
    """A text that heads read.

    Attributes:
        text: one, a pair as one sequence, or one that is divided into words.
        pooled: whether a head reads its pooled vector.
        words: whether a head reads its words.
    """

    text: Text
    pooled: bool = True
    words: bool = False


@dataclass(frozen=True)
class Corpus:
    """The texts of all splits as token ids, each distinct sequence once.

    Attributes:
        sequences: U that differ in their ids, or in which tokens begin words that heads read.
        text_ids: for each split, (N, 1) or (N, 3) int64, which texts each row has: its text, or its pair as one
            sequence; and the first and second text of a pair that is read apart. -1 where no head reads one.
        windows: of each text that differs, the sequences that it is divided into; without it each text is one sequence.
        truncated: for each split, which of these were truncated, in the same places.
        unread_words: how many words of all rows, for heads that read words, were lost with that.
    """

    sequences: Sequences
    text_ids: dict[SplitName, Int[Tensor, "N _"]]
    truncated: dict[SplitName, Bool[Tensor, "N _"]]
    unread_words: int
    windows: Ragged | None = None

    @property
    def text_lengths(self) -> Int[Tensor, " texts"]:
        """How many tokens each text has, in all of its windows."""
        if self.windows is None:
            return self.sequences.lengths
        lengths = self.sequences.lengths[self.windows.values]
        of_text = torch.arange(len(self.windows.lengths)).repeat_interleave(self.windows.lengths)
        return torch.zeros(len(self.windows.lengths), dtype=torch.int64).index_add(0, of_text, lengths)

    @property
    def size(self) -> CorpusSize:
        """How much there is to read."""
        every = torch.cat([text_ids[text_ids >= 0] for text_ids in self.text_ids.values()])
        lengths = self.sequences.lengths
        windows = self.windows.lengths[every] if self.windows else torch.ones_like(every)
        return CorpusSize(
            texts=int(windows.sum()),
            tokens=int(self.text_lengths[every].sum()),
            distinct_texts=len(lengths),
            distinct_tokens=int(lengths.sum()),
            distinct_pooled=int(self.sequences.pooled.sum()),
            distinct_words=int(self.sequences.word_starts.lengths.sum()),
            truncated=sum(int(truncated.sum()) for truncated in self.truncated.values()),
            unread_words=self.unread_words,
            divided=int((windows > 1).sum()),
        )


class _Distinct:
    """Sequences that differ in their token ids, or in which tokens begin words that are read, as they come."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[bytes, bytes], int] = {}
        self.pooled: list[bool] = []

    def add(self, token_ids: bytes, word_starts: bytes, *, pooled: bool) -> int:
        """Return the number of a sequence, which may be there already."""
        number = self.numbers.setdefault((token_ids, word_starts), len(self.pooled))
        if number == len(self.pooled):
            self.pooled.append(pooled)
        elif pooled:
            self.pooled[number] = True
        return number

    def sequences(self) -> Sequences:
        """Return all of them."""
        token_ids, word_starts = ([key[part] for key in self.numbers] for part in (0, 1))
        return Sequences(_ragged(token_ids), torch.tensor(self.pooled, dtype=torch.bool), _ragged(word_starts))


def make_corpus(
    tokenizer: Tokenizer,
    texts: Mapping[SplitName, Sequence[Sequence[TextRead | None]]],
    *,
    prefix: str = "",
    stride: int | None = None,
) -> Corpus:
    """Tokenize the texts of all splits and bring equal sequences together.

    Args:
        texts: of each split, one or three columns of N texts, as ``texts_to_read`` gives them.
        prefix: what is put before each.
        stride: how many tokens windows of a long text share; without it long texts are truncated.

    Raises:
        ConfigurationError: the tokenizer has no such windows.
        DataError: the tokenizer makes nothing of a word.
    """
    if stride is not None:
        return _in_windows(windowing_tokenizer(tokenizer, stride), texts)
    distinct = _Distinct()
    text_ids: dict[SplitName, Tensor] = {}
    truncated: dict[SplitName, Tensor] = {}
    unread_words = 0
    for split, columns in texts.items():
        text_ids[split] = torch.full((len(columns[0]), len(columns)), -1)
        truncated[split] = torch.zeros(text_ids[split].shape, dtype=torch.bool)
        for number, column in enumerate(columns):
            read = [one for one in column if one is not None]
            found = tokenize(tokenizer, [one.text for one in read], prefix=prefix)
            sequences = zip(read, sequences_of(found.token_ids), sequences_of(found.word_starts), strict=True)
            ids = [distinct.add(ids, starts if one.words else b"", pooled=one.pooled) for one, ids, starts in sequences]
            there = torch.tensor([text is not None for text in column])
            text_ids[split][there, number] = torch.tensor(ids, dtype=torch.int64)
            truncated[split][there, number] = found.truncated
            counts = zip(read, found.word_starts.lengths.tolist(), strict=True)
            unread_words += sum(len(parts_of(one.text)) - count for one, count in counts if one.words)
    return Corpus(distinct.sequences(), text_ids, truncated, unread_words)


def _in_windows(tokenizer: Tokenizer, texts: Mapping[SplitName, Sequence[Sequence[TextRead | None]]]) -> Corpus:
    """Bring equal windows together, and texts that are divided into equal ones.

    Raises:
        DataError: a text is a pair, or divided into words.
    """
    distinct, numbers = _Distinct(), dict[tuple[int, ...], int]()
    text_ids: dict[SplitName, Tensor] = {}
    for split, columns in texts.items():
        text_ids[split] = torch.full((len(columns[0]), len(columns)), -1)
        for column, read in enumerate(columns):
            places = [place for place, one in enumerate(read) if one is not None]
            whole = [one.text for one in read if one is not None]
            if other := next((text for text in whole if not isinstance(text, str)), None):
                raise DataError(f"only single texts are divided into windows, and one is {quote(other)}")
            for start in range(0, len(whole), 1000):  # in parts, as in ``tokenize``
                encodings = tokenizer.encode_batch_fast(whole[start : start + 1000])
                for place, first in zip(places[start : start + 1000], encodings, strict=True):
                    windows = [np.array(one.ids, dtype="<i8").tobytes() for one in (first, *first.overflowing)]
                    ids = tuple(distinct.add(window, b"", pooled=True) for window in windows)
                    text_ids[split][place, column] = numbers.setdefault(ids, len(numbers))
    truncated = {split: torch.zeros(ids.shape, dtype=torch.bool) for split, ids in text_ids.items()}
    lengths = torch.tensor([len(ids) for ids in numbers], dtype=torch.int64)
    of_texts = Ragged(torch.tensor([one for ids in numbers for one in ids], dtype=torch.int64), offsets_of(lengths))
    return Corpus(distinct.sequences(), text_ids, truncated, 0, of_texts)


def texts_to_read(rows: DataSplit, reads: Mapping[str, Reading]) -> list[list[TextRead | None]]:
    """Return the texts, or pairs as one sequence, that heads read of N rows.

    After them come, where some head reads them apart, the first and the second texts of pairs. None stands where no
    head with a label reads one.
    """
    wanted = {
        reading: np.logical_or.reduce(
            [labelled for task, labelled in rows.labelled.items() if reads[task] == reading]
            or [np.full(len(rows.texts), reading == "pooled" and not rows.labelled)]  # to be encoded, for no head
        ).tolist()
        for reading in get_args(Reading)
    }
    columns: list[list[TextRead | None]] = [
        [
            TextRead(text, pooled, words) if pooled or words else None
            for text, pooled, words in zip(rows.texts, wanted["pooled"], wanted["words"], strict=True)
        ]
    ]
    apart = wanted["two pooled"]
    if any(apart):
        pairs = [parts_of(text) if read else None for text, read in zip(rows.texts, apart, strict=True)]
        columns += [[TextRead(pair[number]) if pair else None for pair in pairs] for number in (0, 1)]
    return columns


@dataclass(frozen=True)
class Tokenized:
    """N texts as token ids.

    Attributes:
        token_ids: of each.
        word_starts: the places of the first tokens of its words; none for texts that are not divided into words.
        truncated: (N,), whether it was truncated.
    """

    token_ids: Ragged
    word_starts: Ragged
    truncated: Bool[Tensor, " N"]


def tokenize(tokenizer: Tokenizer, texts: Sequence[Text], *, prefix: str = "") -> Tokenized:
    """Return the token ids of N texts, or of pairs as one sequence each, with ``prefix`` before each text.

    Raises:
        DataError: the tokenizer makes nothing of a word, and has no token for what it does not know.
    """
    shortener, words_before = Shortener(tokenizer), len(prefix.split())
    ids: list[Tensor] = []
    starts: list[Tensor] = []
    truncated: list[bool] = []
    no_words = torch.zeros(0, dtype=torch.int64)
    for start in range(0, len(texts), 1000):  # in parts, since an encoding takes far more memory than its ids
        part = [_shortened(_with_prefix(text, prefix), shortener) for text in texts[start : start + 1000]]
        for text, encoding in zip(part, _encode_all(tokenizer, part), strict=True):
            ids.append(torch.tensor(encoding.ids))
            starts.append(_word_starts(encoding, words_before) if isinstance(text, Words) else no_words)
            truncated.append(bool(encoding.overflowing))
    return Tokenized(_joined(ids), _joined(starts), torch.tensor(truncated, dtype=torch.bool))


def _encode_all(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Encoding]:
    """Tokenize texts; of those that are divided into words, at least a token for each."""
    encodings: dict[int, Encoding] = {}
    whole = [number for number, text in enumerate(texts) if not isinstance(text, Words)]
    divided = [number for number, text in enumerate(texts) if isinstance(text, Words)]
    encodings |= zip(whole, tokenizer.encode_batch_fast([texts[number] for number in whole]), strict=True)
    words = [parts_of(texts[number]) for number in divided]
    for number, of_text, encoding in zip(
        divided, words, tokenizer.encode_batch(words, is_pretokenized=True), strict=True
    ):
        encodings[number] = encoding
        if lost := _lost_words(of_text, encoding):
            encodings[number] = _encode_without(tokenizer, of_text, lost)
    return [encodings[number] for number in range(len(texts))]


def _lost_words(words: Sequence[str], encoding: Encoding) -> set[int]:
    """Return the numbers of the words that have no token, though words behind them have or could have."""
    found = {word for word in encoding.word_ids if word is not None}
    reached = max(found, default=-1) if encoding.overflowing else len(words)
    return set(range(reached)) - found


def _encode_without(tokenizer: Tokenizer, words: Sequence[str], lost: Collection[int]) -> Encoding:
    """Tokenize words with the token for what is unknown in place of some, such as of a single joiner."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    known = [unknown if number in lost and unknown else word for number, word in enumerate(words)]
    (encoding,) = tokenizer.encode_batch([known], is_pretokenized=True)
    if still_lost := _lost_words(known, encoding):
        raise DataError(f"the backbone's tokenizer makes nothing of the word {quote(words[min(still_lost)])}")
    return encoding


def _word_starts(encoding: Encoding, words_before: int) -> Int[Tensor, " words"]:
    """Return the place of the first token of each word but so many at the beginning."""
    places: dict[int, int] = {}
    for place, word in enumerate(encoding.word_ids):
        if word is not None and word >= words_before:
            places.setdefault(word, place)
    return torch.tensor(list(places.values()), dtype=torch.int64)


def _with_prefix(text: Text, prefix: str) -> Text:
    if not prefix:
        return text
    if isinstance(text, Words):
        return Words((*prefix.split(), *text.words))
    return prefix + text if isinstance(text, str) else (prefix + text[0], prefix + text[1])


def _shortened(text: Text, shortener: Shortener) -> Text:
    if isinstance(text, str):
        return shortener.shorten(text)
    if isinstance(text, Words):
        return shortener.shorten_words(text)
    return shortener.shorten(text[0]), shortener.shorten(text[1])


def _joined(sequences: Sequence[Int[Tensor, " _length"]]) -> Ragged:
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    return Ragged(torch.cat(list(sequences)) if sequences else lengths, offsets_of(lengths))


def _ragged(sequences: Sequence[bytes]) -> Ragged:
    """Put sequences of int64 together, given as ``sequences_of`` gives them."""
    content = bytearray(b"".join(sequences))
    values = torch.frombuffer(content, dtype=torch.int64) if content else torch.zeros(0, dtype=torch.int64)
    return Ragged(values, offsets_of(torch.tensor([len(sequence) // 8 for sequence in sequences], dtype=torch.int64)))
