"""Errors keep their type and what they carry, and always have something to say."""

from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from run_helpers import small
from topwork.errors import ConfigurationError, TopworkError, TrainingError, describe, did_you_mean, first_line, text_of
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
