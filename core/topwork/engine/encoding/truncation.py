"""Spare the tokenizer what truncation drops: of a text of megabytes it needs the beginning alone."""

import re
from functools import cached_property

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from topwork.data.texts import Words

#: A first guess at how much of a text is enough; words are shorter.
CHARACTERS_PER_TOKEN = 16

#: How far before that a place is looked for where the tokenizer divides texts.
_SEARCHED = 10_000

_BLANKS = " \t\n\r"


class Shortener:
    """Shortens long texts to what has the same token ids, and is truncated where the whole text is.

    A tokenizer as BERT's (Devlin et al. 2018) divides texts at blanks and around Chinese characters before it does
    anything else, so what stands before such a place is tokenized alike whatever follows. Texts for other tokenizers
    stay whole.
    """

    def __init__(self, tokenizer: Tokenizer, *, characters_per_token: int = CHARACTERS_PER_TOKEN) -> None:
        self.tokenizer = tokenizer
        truncation = tokenizer.truncation or {}
        self.length: int = truncation.get("max_length", 0) * characters_per_token

    def shorten(self, text: str) -> str:
        """Return the text, or a part of it that the tokenizer makes the same of."""
        length = self.length
        if not length or len(text) <= 2 * length or not self._divides_at_blanks:
            return text
        beginning = self._beginning(text, length)
        if self._is_truncated(beginning):
            return beginning
        text = self._shorten_words(text)
        while length < len(text):
            beginning = self._beginning(text, length)
            if self._is_truncated(beginning):
                return beginning
            length *= 4
        return text

    def shorten_words(self, text: Words) -> Words:
        """Return a text without the words that the tokenizer is sure to drop; each has a token at least."""
        truncation = self.tokenizer.truncation or {}
        read = text.words[: truncation["max_length"] + 1] if truncation.get("direction") == "right" else text.words
        return Words(tuple(map(self.shorten, read)))

    @cached_property
    def _divides_at_blanks(self) -> bool:
        """Whether this is a tokenizer of which the above is known."""
        tokenizer, truncation = self.tokenizer, self.tokenizer.truncation or {}
        return (
            isinstance(tokenizer.model, WordPiece)
            and isinstance(tokenizer.normalizer, BertNormalizer)
            and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
            and truncation.get("direction") == "right"
            # a token that is looked for first, such as [SEP], must not be divided
            and all(token.isascii() and not re.search(r"\s", token) for token in self._added_tokens)
        )

    @cached_property
    def _added_tokens(self) -> list[str]:
        return [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]

    def _beginning(self, text: str, length: int) -> str:
        """The text up to the last place before ``length`` where the tokenizer divides it; empty if there is none."""
        chinese = self.tokenizer.normalizer.handle_chinese_chars
        for place in range(length, max(length - _SEARCHED, 0), -1):
            if text[place] in _BLANKS or (chinese and "\u4e00" <= text[place] <= "\u9fff"):
                return text[:place]
        return ""

    def _is_truncated(self, text: str) -> bool:
        (encoding,) = self.tokenizer.encode_batch_fast([text])
        return bool(encoding.overflowing)

    def _shorten_words(self, text: str) -> str:
        """Shorten words that are too long for the vocabulary, and so are one unknown token however long they are."""
        if any(token.isalnum() for token in self._added_tokens):  # it may stand inside a word
            return text
        unknown = self.tokenizer.model.max_input_chars_per_word + 1
        return re.sub(f"[A-Za-z0-9]{{{unknown},}}", lambda word: word[0][:unknown], text)
