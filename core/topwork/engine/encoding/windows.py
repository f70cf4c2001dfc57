"""Long texts in windows that overlap, each encoded as a text of its own."""

from tokenizers import Tokenizer

from topwork.errors import ConfigurationError


def windowing_tokenizer(tokenizer: Tokenizer, stride: int) -> Tokenizer:
    """Return a copy of a tokenizer whose encodings have the further windows of a long text as ``overflowing``.

    Args:
        stride: how many tokens of a window are in the next one too.

    Raises:
        ConfigurationError: the tokenizer truncates nothing, or a window has no room for so many and a further one.
    """
    truncation = tokenizer.truncation
    if truncation is None:
        raise ConfigurationError("the backbone truncates no text, so there is nothing to divide; leave out window")
    room = truncation["max_length"] - tokenizer.num_special_tokens_to_add(is_pair=False)
    if stride >= room:
        raise ConfigurationError(
            f"window.stride must be less than {room}, the tokens of a text in a window of max_length "
            f"{truncation['max_length']}, but is {stride}"
        )
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(
        truncation["max_length"], stride=stride, strategy=truncation["strategy"], direction=truncation["direction"]
    )
    return copy
