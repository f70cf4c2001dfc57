"""What is spared the tokenizer changes neither the token ids nor what is called truncated."""

from time import perf_counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from topwork.engine.encoding.truncation import Shortener
from topwork.testing.tiny import letter_tokenizer
from topwork_plugins.backbones.minilm import package_folder
from topwork_plugins.backbones.pretrained import prepare_tokenizer


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return bert_tokenizer(max_length=8)


def bert_tokenizer(max_length: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(package_folder() / "tokenizer.json"))
    prepare_tokenizer(tokenizer, max_length)
    return tokenizer


def outcome(tokenizer: Tokenizer, text: str) -> tuple[list[int], bool]:
    """The token ids, and whether the text was truncated."""
    encoding = tokenizer.encode(text)
    return encoding.ids, bool(encoding.overflowing)


#: What the tokenizer divides, drops, joins or takes for a token of its own; and words too long for its vocabulary.
PIECES = st.sampled_from(
    [
        *[
            "a",
            "film",
            "unaffable",
            " ",
            "  ",
            "\n",
            "\t",
            "!",
            "[SEP]",
            "[CLS",
            "]",
            "中",
            "文",
            "\u0301",
            "é",
            "E\u0301",
        ],
        *["İ", "\u00a0", "\u200b", "\0", "\x85", "\u3000", "ﬁ", "ß", "😀", "x" * 99, "x" * 100, "x" * 101, "9" * 300],
    ]
)
TEXTS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=60).map("".join)


@given(TEXTS, st.integers(1, 4))
@example("x" * 1000, 1)
@example("x" * 1000 + "! end " * 50, 1)
@example("x" + "\u0301" * 500 + " y" * 50, 1)
@example("中" * 500, 1)
@example(" " * 500 + "film " * 30, 1)
def test_a_shortened_text_has_the_token_ids_of_the_whole(bert: Tokenizer, text: str, characters: int) -> None:
    shortened = Shortener(bert, characters_per_token=characters).shorten(text)
    assert outcome(bert, shortened) == outcome(bert, text)
    assert len(shortened) <= len(text)


@pytest.mark.parametrize("text", ["film " * 1000, "中" * 5000, "x" * 5000, "x" * 5000 + " film" * 1000])
def test_a_long_text_is_shortened(bert: Tokenizer, text: str) -> None:
    assert len(Shortener(bert).shorten(text)) < 1000


def test_a_text_of_usual_length_stays_as_it_is(bert: Tokenizer) -> None:
    text = "film " * 51
    assert Shortener(bert).shorten(text) is text


def other_tokenizers() -> dict[str, Tokenizer]:
    left, token, blank = (bert_tokenizer(max_length=8) for _ in range(3))
    left.enable_truncation(8, direction="left")
    token.add_tokens([AddedToken("xx")])
    blank.add_tokens([AddedToken("film film")])
    endless = bert_tokenizer(max_length=8)
    endless.no_truncation()
    return {"letters": letter_tokenizer(8), "left": left, "token": token, "blank": blank, "endless": endless}


@pytest.mark.parametrize("tokenizer", other_tokenizers().values(), ids=other_tokenizers())
@given(TEXTS)
def test_texts_for_other_tokenizers_have_their_token_ids_too(tokenizer: Tokenizer, text: str) -> None:
    text = f"{text} film film xx"
    shortened = Shortener(tokenizer, characters_per_token=1).shorten(text)
    assert outcome(tokenizer, shortened) == outcome(tokenizer, text)


@pytest.mark.parametrize("text", ["x" * 50_000_000, "word " * 10_000_000], ids=["one word", "words"])
def test_a_text_of_50_megabytes_is_shortened_at_once(bert: Tokenizer, text: str) -> None:
    started = perf_counter()
    assert len(Shortener(bert).shorten(text)) < 1000
    assert perf_counter() - started < 5
