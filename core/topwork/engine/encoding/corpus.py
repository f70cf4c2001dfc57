"""Texts to token ids, equal texts once."""

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import DTypeLike, NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.data.texts import Text, Words, parts_of
from topwork.engine.encoding.distinct import KEY_BYTES, number_distinct
from topwork.engine.encoding.ragged import Ragged, no_sequences, offsets_of, sequences_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.truncation import Shortener
from topwork.engine.encoding.windows import windowing_tokenizer
from topwork.engine.model.plan import CorpusSize
from topwork.errors import DataError, quote
from topwork.experiment.source import SplitName
from topwork.interfaces.head import Reading
from topwork.mapped import AT_ONCE, ArrayWriter, zeros

#: Texts that are tokenized at a time.
TEXTS_AT_ONCE = 1000


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
        of_texts = self.text_lengths
        texts = tokens = divided = 0
        for text_ids in (part for of_split in self.text_ids.values() for part in of_split.split(AT_ONCE)):
            read = text_ids[text_ids >= 0]
            windows = (
                self.windows.lengths_of(read) if self.windows else torch.ones((), dtype=torch.int64).expand_as(read)
            )
            texts, tokens = texts + int(windows.sum()), tokens + int(of_texts[read].sum())
            divided += int((windows > 1).sum())
        return CorpusSize(
            texts=texts,
            tokens=tokens,
            distinct_texts=len(self.sequences),
            distinct_tokens=len(self.sequences.token_ids.values),
            distinct_pooled=int(self.sequences.pooled.sum()),
            distinct_words=int(self.sequences.word_starts.lengths.sum()),
            truncated=sum(int(truncated.sum()) for truncated in self.truncated.values()),
            unread_words=self.unread_words,
            divided=divided,
        )


class _Sequences:
    """Sequences as they come, of which equal ones are brought together in the end.

    They are equal where their token ids are, and the tokens that begin words that are read.
    """

    def __init__(self) -> None:
        self._ids, self._starts = (ArrayWriter(np.int64) for _ in range(2))
        self._id_counts, self._start_counts = (ArrayWriter(np.int64) for _ in range(2))
        self._pooled = ArrayWriter(np.bool_)
        self._keys = ArrayWriter(np.uint8, (KEY_BYTES,))

    def add(self, token_ids: Ragged, word_starts: Ragged, pooled: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Add B sequences, with the places of words that are read, and whether each is read as a whole.

        Returns what tells them apart, (B, 16).
        """
        keys = _keys(token_ids, word_starts)
        self._ids.append(token_ids.values.numpy())
        self._id_counts.append(token_ids.lengths.numpy())
        self._starts.append(word_starts.values.numpy())
        self._start_counts.append(word_starts.lengths.numpy())
        self._pooled.append(pooled)
        self._keys.append(keys)
        return keys

    def finish(self) -> tuple[Sequences, NDArray[np.int64]]:
        """Return those that differ, and the number among them of each that was added."""
        numbers, first = number_distinct(self._keys.finish())
        token_ids = Ragged(torch.from_numpy(self._ids.finish()), _offsets(self._id_counts))
        word_starts = Ragged(torch.from_numpy(self._starts.finish()), _offsets(self._start_counts))
        pooled = np.zeros(len(first), np.bool_)
        pooled[numbers[self._pooled.finish()]] = True
        rows = torch.from_numpy(first)
        every = Sequences(token_ids, torch.ones(len(numbers), dtype=torch.bool), word_starts).take(rows)
        return Sequences(every.token_ids, torch.from_numpy(pooled), every.word_starts), numbers


def make_corpus(
    tokenizer: Tokenizer,
    texts: Mapping[SplitName, Sequence["TextsRead"]],
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
    every = _Sequences()
    truncated = {split: _places(columns, np.bool_) for split, columns in texts.items()}
    unread_words = 0
    for split, columns in texts.items():
        for number, column in enumerate(columns):
            for rows, some in column.parts():
                found = tokenize(tokenizer, some, prefix=prefix)
                reads_words = column.words[rows]
                every.add(found.token_ids, _only(found.word_starts, reads_words), column.pooled[rows])
                truncated[split][rows, number] = found.truncated.numpy()
                counts = zip(some, found.word_starts.lengths.tolist(), reads_words.tolist(), strict=True)
                unread_words += sum(len(parts_of(text)) - count for text, count, read in counts if read)
    sequences, numbers = every.finish()
    return Corpus(sequences, _text_ids(texts, numbers), _as_tensors(truncated), unread_words)


def _in_windows(tokenizer: Tokenizer, texts: Mapping[SplitName, Sequence["TextsRead"]]) -> Corpus:
    """Bring equal windows together, and texts that are divided into equal ones.

    Raises:
        DataError: a text is a pair, or divided into words.
    """
    every, counts, keys = _Sequences(), ArrayWriter(np.int64), ArrayWriter(np.uint8, (KEY_BYTES,))
    for column in (column for columns in texts.values() for column in columns):
        for _, some in column.parts():
            if other := next((text for text in some if not isinstance(text, str)), None):
                raise DataError(f"only single texts are divided into windows, and one is {quote(other)}")
            whole = [(first, *first.overflowing) for first in tokenizer.encode_batch_fast(some)]
            windows = _ragged([window.ids for of_text in whole for window in of_text])
            of_windows = every.add(windows, no_sequences(len(windows)), np.ones(len(windows), np.bool_))
            per_text = np.array([len(of_text) for of_text in whole])
            counts.append(per_text)
            keys.append(_digested([part.tobytes() for part in np.split(of_windows, per_text.cumsum()[:-1])]))
    sequences, numbers = every.finish()
    of_text, first = number_distinct(keys.finish())
    windows_of_texts = Ragged(torch.from_numpy(numbers), _offsets(counts)).take(torch.from_numpy(first))
    truncated = {split: _places(columns, np.bool_) for split, columns in texts.items()}
    return Corpus(sequences, _text_ids(texts, of_text), _as_tensors(truncated), 0, windows_of_texts)


def _text_ids(
    texts: Mapping[SplitName, Sequence["TextsRead"]], numbers: NDArray[np.int64]
) -> dict[SplitName, Int[Tensor, "N _"]]:
    """Put the numbers of texts in their places, column by column and split by split; -1 where none is read."""
    text_ids = {split: _places(columns, np.int64) for split, columns in texts.items()}
    done = 0
    for split, columns in texts.items():
        for number, column in enumerate(columns):
            read = column.read
            text_ids[split][:, number] = -1
            text_ids[split][read, number] = numbers[done : done + len(read)]
            done += len(read)
    return _as_tensors(text_ids)


def _places(columns: Sequence["TextsRead"], dtype: DTypeLike) -> NDArray[Any]:
    return zeros((len(columns[0].texts), len(columns)), dtype)


def _as_tensors(arrays: Mapping[SplitName, NDArray[Any]]) -> dict[SplitName, Tensor]:
    return {split: torch.from_numpy(array) for split, array in arrays.items()}


def _keys(token_ids: Ragged, word_starts: Ragged) -> NDArray[np.uint8]:
    """Return what tells sequences apart."""
    pairs = zip(sequences_of(token_ids), sequences_of(word_starts), strict=True)
    return _digested([ids + b"words" + starts if starts else ids for ids, starts in pairs])


def _digested(contents: Sequence[bytes]) -> NDArray[np.uint8]:
    digests = b"".join(hashlib.sha256(content).digest()[:KEY_BYTES] for content in contents)
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)


def _only(word_starts: Ragged, wanted: NDArray[np.bool_]) -> Ragged:
    """Return places of words where they are wanted, and none of other texts."""
    if wanted.all() or not len(word_starts.values):
        return word_starts
    lengths, kept = word_starts.lengths, torch.from_numpy(wanted)
    return Ragged(word_starts.values[kept.repeat_interleave(lengths)], offsets_of(lengths * kept))


def _offsets(counts: ArrayWriter) -> Int[Tensor, " bounds"]:
    return offsets_of(torch.from_numpy(counts.finish()))


@dataclass(frozen=True)
class TextsRead:
    """A column of N texts, some of which heads read.

    Attributes:
        texts: single ones, pairs, or texts that are divided into words.
        pooled: (N,), whether a head reads the pooled vector of a text.
        words: (N,), whether a head reads its words.
        part: which text of each pair is meant, 0 or 1; None for both as one sequence.
    """

    texts: Sequence[Text]
    pooled: NDArray[np.bool_]
    words: NDArray[np.bool_]
    part: int | None = None

    @property
    def read(self) -> NDArray[np.int64]:
        """The rows whose texts heads read."""
        return np.flatnonzero(self.pooled | self.words)

    def parts(self) -> Iterator[tuple[NDArray[np.int64], list[Text]]]:
        """Yield the texts that heads read with their rows, in parts: an encoding takes far more memory than its ids."""
        for first in range(0, len(self.texts), TEXTS_AT_ONCE):
            some = slice(first, first + TEXTS_AT_ONCE)
            wanted = self.pooled[some] | self.words[some]
            if wanted.any():
                texts = list(itertools.compress(self.texts[some], wanted))
                yield (
                    first + np.flatnonzero(wanted),
                    texts if self.part is None else [parts_of(text)[self.part] for text in texts],
                )


def texts_to_read(rows: DataSplit, reads: Mapping[str, Reading]) -> list[TextsRead]:
    """Return the texts, or pairs as one sequence, that heads read of N rows.

    After them come, where some head reads them apart, the first and the second texts of pairs.
    """
    count = len(rows.texts)
    wanted = {reading: np.zeros(count, np.bool_) for reading in get_args(Reading)}
    for task, labelled in rows.labelled.items():
        wanted[reads[task]] |= labelled
    if not rows.labelled:  # to be encoded, for no head
        wanted["pooled"][:] = True
    columns = [TextsRead(rows.texts, wanted["pooled"], wanted["words"])]
    apart, none = wanted["two pooled"], np.zeros(count, np.bool_)
    return [*columns, *(TextsRead(rows.texts, apart, none, part) for part in (0, 1) if apart.any())]


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
    ids, starts, truncated = list[Ragged](), list[Ragged](), list[bool]()
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        part = [_shortened(_with_prefix(text, prefix), shortener) for text in texts[first : first + TEXTS_AT_ONCE]]
        encodings = _encode_all(tokenizer, part)
        ids.append(_ragged([encoding.ids for encoding in encodings]))
        places = zip(part, encodings, strict=True)
        starts.append(_ragged([_word_starts(one, words_before) if isinstance(t, Words) else [] for t, one in places]))
        truncated += [bool(encoding.overflowing) for encoding in encodings]
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


def _word_starts(encoding: Encoding, words_before: int) -> list[int]:
    """Return the place of the first token of each word but so many at the beginning."""
    places: dict[int, int] = {}
    for place, word in enumerate(encoding.word_ids):
        if word is not None and word >= words_before:
            places.setdefault(word, place)
    return list(places.values())


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


def _ragged(sequences: Sequence[Sequence[int]]) -> Ragged:
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    values = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    return Ragged(torch.from_numpy(values), offsets_of(lengths))


def _joined(parts: Sequence[Ragged]) -> Ragged:
    if len(parts) == 1:
        return parts[0]
    none = torch.zeros(0, dtype=torch.int64)
    return Ragged(
        torch.cat([none, *(part.values for part in parts)]),
        offsets_of(torch.cat([none, *(part.lengths for part in parts)])),
    )
