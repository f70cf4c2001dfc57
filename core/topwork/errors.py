"""Everything that topwork raises on purpose.

A message states the rule, the value that broke it, and the next step. Several errors found together
are reported together, one to a line. The command line prints the message and ends with ``exit_code``.
"""

import difflib
from collections.abc import Collection, Iterable
from typing import ClassVar, Self

#: What a screen holds: no message has more characters or lines, and no line of one has more characters.
MAX_CHARACTERS, MAX_LINES, MAX_LINE = 5000, 40, 1000


class TopworkError(Exception):
    """The root of all errors below. A message that is longer than a screen is cut, and says so."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(fit_screen(message))

    def located(self, where: str) -> Self:
        """Put ``where`` before each line of the message, and return this very error, to be raised again."""
        self.args = (fit_screen("\n".join(f"{where}: {line}" for line in text_of(self).splitlines())),)
        return self


class TrainingError(TopworkError):
    """Training had to stop: a loss or a weight is no longer finite.

    ``kept_epoch`` is the epoch whose weights the model was returned to; 0 where none was finished.
    """

    def __init__(self, message: str, *, kept_epoch: int) -> None:
        super().__init__(message)
        self.kept_epoch = kept_epoch


class ResourceError(TopworkError):
    """The machine has not enough memory for what was asked of it."""


class StudyError(TopworkError):
    """A study ended without a result: its trials failed, or its workers did."""


class ConfigurationError(TopworkError):
    """What the researcher wrote does not fit the schema, the model, or the installed plugins."""

    exit_code = 2


class DataError(TopworkError):
    """Rows, labels or splits are not what the experiment says they are."""

    exit_code = 3


class PluginError(TopworkError):
    """A plugin is missing, broken, or breaks its interface."""

    exit_code = 4


class StorageError(TopworkError):
    """A file, a folder or the tracking server could not be read or written."""

    exit_code = 5


class UnrecoverableError(StorageError):
    """A run was interrupted, and none of its checkpoints can be read."""

    exit_code = 6


def text_of(error: BaseException) -> str:
    """Return what an error says; the name of its type where it says nothing."""
    return str(error).strip() or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what another library says went wrong; the name of its type where it says nothing."""
    return text_of(error).splitlines()[0]


def reason_of(error: OSError) -> str:
    """Return what the operating system says went wrong, without its number and path."""
    return error.strerror or first_line(error)


def describe(error: BaseException) -> str:
    """Return the type of an error, and the first line of what it says where it says something."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` to end a message with, or ``""`` where no choice is near ``word``."""
    if len(word) > MAX_LINE:  # no name is so long, and comparing takes time
        return ""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def shorten(text: str, length: int = 60) -> str:
    """Return ``text``, or its beginning and ``...`` where it has more than ``length`` characters.

    What would end a line or act on a terminal is escaped.
    """
    text = _cut(text, length)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quote(value: object, length: int = 60) -> str:
    """Return a value as Python would write it, shortened to about ``length`` characters."""
    if isinstance(value, str):
        return repr(_cut(value, length))
    return shorten(repr(value), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def enumerate_names(names: Collection[str], shown: int = 20) -> str:
    """Return names separated by commas: the first ``shown``, and how many there are beyond them."""
    first = [shorten(name) for name, _ in zip(names, range(shown), strict=False)]
    more = [f"... and {len(names) - shown:,} more"] if len(names) > shown else []
    return ", ".join([*first, *more])


def fit_screen(message: str) -> str:
    """Cut a message to what a screen holds, and say how much was left out; its last line always stays."""
    lines = message.strip().splitlines()
    if len(message) <= MAX_CHARACTERS and len(lines) <= MAX_LINES and all(len(line) <= MAX_LINE for line in lines):
        return message
    *others, last = map(_fit_line, lines)
    room = MAX_CHARACTERS - len(last) - 40
    kept: list[str] = []
    for line in others:
        room -= len(line) + 1
        if room < 0 or (len(kept) == MAX_LINES - 2 and len(others) > MAX_LINES - 1):
            return "\n".join([*kept, f"... {len(others) - len(kept):,} lines are left out ...", last])
        kept.append(line)
    return "\n".join([*kept, last])


def _fit_line(line: str) -> str:
    if len(line) <= MAX_LINE:
        return line
    return f"{line[:750]} ... {len(line) - 900:,} characters are left out ... {line[-150:]}"
