"""Everything that topwork raises on purpose.

A message states the rule, the value that broke it, and the next step. Several errors found together
are reported together, one to a line. The command line prints the message and ends with ``exit_code``.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self


class TopworkError(Exception):
    """The root of all errors below."""

    exit_code: ClassVar[int] = 1

    def located(self, where: str) -> Self:
        """Put ``where`` before each line of the message, and return this very error, to be raised again."""
        self.args = ("\n".join(f"{where}: {line}" for line in text_of(self).splitlines()),)
        return self


class TrainingError(TopworkError):
    """Training had to stop: a loss or a weight is no longer finite.

    ``kept_epoch`` is the epoch whose weights the model was returned to; 0 where none was finished.
    """

    def __init__(self, message: str, *, kept_epoch: int) -> None:
        super().__init__(message)
        self.kept_epoch = kept_epoch


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
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
