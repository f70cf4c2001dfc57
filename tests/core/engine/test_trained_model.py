"""A trained model is a folder that says what it is and gives back what was trained."""

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topwork.data.files import digest_of_files
from topwork.engine.model_folder import load_model
from topwork.engine.trained_model import check_texts
from topwork.errors import ConfigurationError, DataError, StorageError

TEXTS = ["a good novel", "a broken saw, really", "an album", "good"]


@pytest.fixture(scope="module")
def loaded(finished: Any) -> Any:
    return load_model(finished.folder)


def test_a_prediction_gives_label_and_probabilities_of_each_task(loaded: Any) -> None:
    for prediction in loaded.predict(TEXTS):
        assert list(prediction) == ["sentiment", "category"]
        for task, said in prediction.items():
            assert list(said.probabilities) == list(loaded.labels[task].names)
            assert sum(said.probabilities.values()) == pytest.approx(1)
            assert said.label == max(said.probabilities, key=said.probabilities.__getitem__)


def test_predictions_come_in_the_order_of_the_texts(loaded: Any) -> None:
    forwards, backwards = loaded.predict(TEXTS), loaded.predict(TEXTS[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one["category"].probabilities == pytest.approx(other["category"].probabilities, abs=1e-5)
    assert len({prediction["category"].probabilities["books"] for prediction in forwards}) == len(TEXTS)


def test_vectors_are_float32_with_a_row_for_each_text(loaded: Any) -> None:
    vectors = loaded.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32


def test_a_vector_does_not_depend_on_the_company(loaded: Any) -> None:
    assert np.array_equal(loaded.encode(TEXTS)[1:2], loaded.encode(TEXTS[1:2]))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no texts given"),
        ([""], "1 of 1 texts are empty: number 1"),
        (["fine", " \n", "fine", ""], "2 of 4 texts are empty: number 2, 4"),
    ],
)
@pytest.mark.parametrize("method", ["predict", "encode"])
def test_empty_texts_are_refused(loaded: Any, method: str, texts: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        getattr(loaded, method)(texts)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", [3, None, ("a",), ("a", "b", "c"), ("a", 1), ["a", 1], b"a"], ids=repr)
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(DataError) as caught:
        inspect.unwrap(check_texts)(["fine", text])  # without the check of types that tests have
    assert str(caught.value) == (f"text number 2: a text is a string, a tuple of two, or a list of words, got {text!r}")


def test_truncated_texts_are_counted_in_a_warning(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded.predict(["short", "long " * 40, "longer " * 400])
    assert caplog.messages == ["2 of 3 texts are longer than the model reads and were truncated"]


def test_texts_that_fit_give_no_warning(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded.predict(TEXTS)
    assert caplog.messages == []


def test_evaluating_reproduces_the_figures_of_training(finished: Any, loaded: Any) -> None:
    figures, which = loaded.evaluate(next(iter(loaded.digests)))
    assert which == "test rows of the experiment"
    assert figures == finished.figures


def test_evaluating_another_file_uses_all_its_rows(loaded: Any, write: Callable[..., Path]) -> None:
    (name, source), *_ = loaded.experiment["data"].items()
    limited = dataclasses.replace(loaded, experiment=loaded.experiment | {"data": {name: source | {"limit": 3}}})
    labels = [loaded.predict([text])[0] for text in TEXTS]
    rows = [
        f'"{text}",{said["sentiment"].label},{said["category"].label}' for text, said in zip(TEXTS, labels, strict=True)
    ]
    file = write("more.csv", "\n".join(["text,sentiment,category", *rows]))
    figures, which = limited.evaluate(file)
    assert which == f"all rows of {file}"
    assert {figure.rows for figure in figures.values()} == {len(TEXTS)}
    assert figures["sentiment/accuracy"].value == figures["category/accuracy"].value == 1


def test_evaluating_rows_with_a_label_never_met_is_refused(loaded: Any, write: Callable[..., Path]) -> None:
    file = write("more.csv", "text,sentiment,category\na song,pos,music\na car,neg,cars\n")
    with pytest.raises(DataError) as caught:
        loaded.evaluate(file)
    assert str(caught.value) == (
        f"{file}:3: category: label 'cars' of task category does not occur in the training rows, "
        "which have books, music, tools"
    )


def with_tasks(model: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A model whose tasks have other settings."""
    tasks = {name: change(task) for name, task in model.experiment["tasks"].items()}
    return dataclasses.replace(model, experiment=model.experiment | {"tasks": tasks})


BLANK = "text,sentiment,category\na song,pos ,music\nanother,neg,books\n"


def test_labels_are_spelt_as_in_training(
    loaded: Any, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = write("more.csv", BLANK)
    figures, _ = loaded.evaluate(file)
    assert figures["sentiment/accuracy"].rows == 2
    assert caplog.messages == [
        "task sentiment: 1 of 2 labels are read in another spelling, as tasks.sentiment.labels says: "
        f"'pos ' as 'pos' ({file}:2)"
    ]


def test_a_model_that_says_nothing_of_spellings_takes_labels_as_they_are_written(
    loaded: Any, write: Callable[..., Path]
) -> None:
    before = with_tasks(loaded, lambda task: {name: value for name, value in task.items() if name != "labels"})
    with pytest.raises(DataError, match="label 'pos ' of task sentiment does not occur in the training rows"):
        before.evaluate(write("more.csv", BLANK))


def test_faulty_rows_are_skipped_as_in_training(
    loaded: Any, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    (name, source), *_ = loaded.experiment["data"].items()
    changed = loaded.experiment | {"data": {name: source | {"on_faulty_rows": "skip"}}}
    file = write("more.csv", BLANK.replace("pos ", "pos") + ",pos,music\n")
    figures, _ = dataclasses.replace(loaded, experiment=changed).evaluate(file)
    assert figures["sentiment/accuracy"].rows == 2
    (warning,) = caplog.messages
    assert warning.startswith(f"{file}: 1 of 3 rows are faulty and were skipped:")


def test_evaluating_a_file_that_is_not_there_is_refused(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        loaded.evaluate(tmp_path / "nothing.csv")


@pytest.mark.parametrize("origin", ["trained", "loaded"])
def test_a_finished_model_trains_nothing(finished: Any, loaded: Any, origin: str) -> None:
    model = (loaded if origin == "loaded" else finished.trained).model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_training_file_that_has_changed_is_not_taken_for_the_same(finished: Any, tmp_path: Path) -> None:
    copy = tmp_path / "reviews.csv"
    path = Path(next(iter(finished.trained.digests)))
    copy.write_text(path.read_text().replace("books", "zbooks"))
    experiment = json.loads(json.dumps(finished.trained.experiment).replace(str(path), str(copy)))
    moved = dataclasses.replace(finished.trained, experiment=experiment)
    with pytest.raises(DataError) as caught:
        moved.evaluate(copy)
    assert str(caught.value) == (
        f"{copy} is not the file of the training any more, so its test rows may be others; "
        "give a copy of another name to measure all of its rows"
    )


def test_no_file_is_read_because_a_model_names_it(loaded: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded.evaluate()
    path = next(iter(loaded.digests))
    assert str(caught.value) == f"give a file with rows to measure; the experiment's are in {path}"


def test_of_an_experiment_with_a_file_for_each_split_the_test_file_is_named(loaded: Any) -> None:
    data = {"reviews": {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}}
    split = dataclasses.replace(loaded, experiment=loaded.experiment | {"data": data})
    with pytest.raises(ConfigurationError, match=r"the experiment's are in .*c\.csv$"):
        split.evaluate()


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"reviews": {"path": 3}}},
        {"data": {"reviews": {"path": "a\0b"}}},
        {"tasks": {"sentiment": {"label": "sentiment", "labels": {"strip": "x"}}}},
    ],
)
def test_a_model_that_does_not_say_how_its_rows_were_read_is_refused(loaded: Any, change: dict[str, Any]) -> None:
    broken = dataclasses.replace(loaded, experiment=loaded.experiment | change)
    with pytest.raises(StorageError, match="the model does not say how its rows were read: "):
        broken.evaluate("rows.csv")


def test_one_text_is_not_taken_for_a_list(loaded: Any) -> None:
    with pytest.raises(DataError, match="give a list of texts, not one text"):
        loaded.predict("abc")


def test_half_a_character_is_refused(loaded: Any) -> None:
    with pytest.raises(DataError, match="1 of 2 texts are not valid Unicode: number 2"):
        loaded.predict(["fine", "\ud800"])


def test_a_list_of_words_is_encoded_whole(loaded: Any) -> None:
    words, text = ["The", "zoom", "broke", "never"], "The zoom broke never"
    one, pair, single = loaded.encode([words, ("The", "zoom"), ["one"]])
    assert not np.array_equal(one, pair)
    assert single.shape == one.shape == loaded.encode([text])[0].shape


def test_a_part_of_the_training_files_is_not_measured_as_if_it_were_new(
    loaded: Any, write: Callable[..., Path]
) -> None:
    rows = Path(next(iter(loaded.digests))).read_text().splitlines()
    parts = [write(f"part-{n}.csv", "\n".join([rows[0], *rows[1 + n :: 2]]) + "\n") for n in (0, 1)]
    pattern = parts[0].parent / "part-*.csv"
    (source,) = loaded.experiment["data"].values()
    data = {"reviews": source | {"path": str(pattern)}}
    model = dataclasses.replace(
        loaded, experiment=loaded.experiment | {"data": data}, digests={str(pattern): digest_of_files(pattern)}
    )
    with pytest.raises(DataError, match=r"part-1.csv is one of the files .*part-\*.csv that were trained on"):
        model.evaluate(parts[1])
    _, which = model.evaluate(pattern)
    assert which == "test rows of the experiment"
