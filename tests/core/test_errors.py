"""Errors keep their type and what they carry, and always have something to say."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import topwork
from run_helpers import small
from topwork.errors import (
    MAX_CHARACTERS,
    MAX_LINE,
    MAX_LINES,
    ConfigurationError,
    TopworkError,
    TrainingError,
    describe,
    did_you_mean,
    enumerate_names,
    first_line,
    fit_screen,
    quote,
    shorten,
    text_of,
)
from topwork.lab.study.result import FailedStudyError, StudyResult
from topwork.testing import TinyBackboneConfig

RESULT = StudyResult(
    name="small",
    folder=Path("studies/small"),
    storage="sqlite:///study.db",
    objectives=("loss",),
    maximize=(False,),
    trials=[],
    baseline=None,
    best=[],
    changes={},
    files={},
    evaluations={},
    run_id=None,
    tracking_uri=None,
    seconds=1.0,
    encoding_seconds=0.0,
    warnings=[],
)
ERRORS: dict[str, Callable[[str], TopworkError]] = {
    "TopworkError": TopworkError,
    "ConfigurationError": ConfigurationError,
    "DataError": topwork.DataError,
    "PluginError": topwork.PluginError,
    "StorageError": topwork.StorageError,
    "StudyError": topwork.StudyError,
    "TrainingError": lambda message: TrainingError(message, kept_epoch=3),
    "FailedStudyError": lambda message: FailedStudyError(message, RESULT),
}
SILENT = ["", " ", "\n", "\n \n"]


class MuteError(Exception):
    """An error that forgets what it was given."""

    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_an_error_that_is_located_is_the_very_error_that_it_was(make: Callable[[str], TopworkError]) -> None:
    error = make("no such thing")
    carried = vars(error).copy()
    assert error.located("e.yaml:3:1: freeze") is error
    assert str(error) == "e.yaml:3:1: freeze: no such thing"
    assert vars(error) == carried


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_each_line_of_an_error_is_located(make: Callable[[str], TopworkError]) -> None:
    assert str(make("one\ntwo").located("here")).splitlines() == ["here: one", "here: two"]


@pytest.mark.parametrize("text", SILENT, ids=repr)
@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_an_error_without_a_text_is_located_by_its_type(make: Callable[[str], TopworkError], text: str) -> None:
    error = make(text)
    assert str(error.located("here")) == f"here: {type(error).__name__}"


def test_an_error_is_located_again_where_it_passes_another_place() -> None:
    assert str(TopworkError("no").located("inner").located("outer")) == "outer: inner: no"


def test_a_located_error_is_raised_with_its_cause() -> None:
    cause = KeyError("no")
    with pytest.raises(ConfigurationError, match=r"^here: why$") as caught:
        raise ConfigurationError("why").located("here") from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    ("error", "text", "first", "described"),
    [
        (ValueError("no"), "no", "no", "ValueError: no"),
        (ValueError("one\ntwo"), "one\ntwo", "one", "ValueError: one"),
        (ValueError("\n one\ntwo \n"), "one\ntwo", "one", "ValueError: one"),
        (KeyError("no"), "'no'", "'no'", "KeyError: 'no'"),
        (OSError(2, "No such file", "x"), "[Errno 2] No such file: 'x'", "[Errno 2] No such file: 'x'",
         "FileNotFoundError: [Errno 2] No such file: 'x'"),
        *((ValueError(text), "ValueError", "ValueError", "ValueError") for text in SILENT),
        (ValueError(), "ValueError", "ValueError", "ValueError"),
        (OSError(), "OSError", "OSError", "OSError"),
        (AssertionError(), "AssertionError", "AssertionError", "AssertionError"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        (MuteError("no"), "MuteError", "MuteError", "MuteError"),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_every_error_says_something(error: BaseException, text: str, first: str, described: str) -> None:
    assert (text_of(error), first_line(error), describe(error)) == (text, first, described)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (TopworkError, 1),
        (TrainingError, 1),
        (topwork.StudyError, 1),
        (FailedStudyError, 1),
        (ConfigurationError, 2),
        (topwork.DataError, 3),
        (topwork.PluginError, 4),
        (topwork.StorageError, 5),
    ],
)
def test_an_error_has_the_exit_code_of_its_kind(kind: type[TopworkError], code: int) -> None:
    assert issubclass(kind, TopworkError)
    assert kind.exit_code == code


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("epohcs", ["epochs", "seed"], "; did you mean epochs?"),
        ("epochs", ["batch_size"], ""),
        ("", ["a"], ""),
        ("a", [], ""),
    ],
)
def test_the_nearest_choice_is_offered_where_one_is_near(word: str, choices: list[str], hint: str) -> None:
    assert did_you_mean(word, choices) == hint


@given(st.lists(st.integers(0, 3000), max_size=100))
def test_no_message_is_longer_than_a_screen(lengths: list[int]) -> None:
    message = "\n".join("x" * length for length in lengths)
    fitted = fit_screen(message)
    assert len(fitted) <= MAX_CHARACTERS
    assert len(fitted.splitlines()) <= MAX_LINES
    assert all(len(line) <= MAX_LINE for line in fitted.splitlines())
    assert fit_screen(fitted) == fitted
    assert fitted.strip() == message.strip() or "left out" in fitted


def test_a_message_that_is_cut_keeps_its_ends_and_says_how_much_is_left_out() -> None:
    assert str(TopworkError("a" * 750 + "b" * 30_000 + "c" * 150)) == (
        f"{'a' * 750} ... 30,000 characters are left out ... {'c' * 150}"
    )
    many = str(TopworkError("\n".join(map(str, range(100)))).located("here")).splitlines()
    assert (many[0], many[-3:]) == ("here: 0", ["here: 37", "here: ... 61 lines are left out ...", "here: 99"])


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_a_place_that_is_longer_than_a_screen_is_cut_too(make: Callable[[str], TopworkError]) -> None:
    assert len(str(make("one\ntwo").located("p" * 50_000))) <= MAX_CHARACTERS


def test_long_values_and_lists_are_shortened() -> None:
    assert (shorten("x" * 60), shorten("x" * 61)) == ("x" * 60, "x" * 57 + "...")
    assert (quote("x" * 61), quote(3), quote(["a"])) == (f"'{'x' * 57}...'", "3", "['a']")
    assert enumerate_names(["a", "b", "c"], 3) == "a, b, c"
    assert enumerate_names([f"n{number}" for number in range(1500)], 2) == "n0, n1, ... and 1,498 more"


def test_what_would_end_a_line_or_act_on_a_terminal_is_escaped() -> None:
    assert shorten("a\n\x1b[31m\u2028é") == "a\\n\\x1b[31m\\u2028é"
    assert quote("a\n\x1b") == "'a\\n\\x1b'"
    assert enumerate_names(["a\0"]) == "a\\x00"


def test_a_word_that_is_no_name_is_not_compared_with_names() -> None:
    assert did_you_mean("x" * 1_000_000, ["x" * 999_999]) == ""


def test_a_backbone_that_fails_without_a_word_is_a_damaged_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topwork.train(small("training.epochs=1", "tracking.enabled=false"), output=tmp_path / "model")

    def fail(config: TinyBackboneConfig, folder: Path) -> None:
        raise RuntimeError

    monkeypatch.setattr(TinyBackboneConfig, "restore", fail)
    with pytest.raises(topwork.StorageError) as caught:
        topwork.load_model(tmp_path / "model")
    assert str(caught.value) == f"{tmp_path / 'model' / 'backbone'} is damaged: RuntimeError; copy the folder again"
