"""From an experiment to texts and targets, with what the researcher should know."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topwork.data.dataset import Dataset, load_dataset, read_all_rows, read_splits
from topwork.errors import DataError
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.experiment.schema import Experiment
from topwork.experiment.source import Source
from topwork.interfaces.labels import Classes
from topwork.registry import Registry, discover

Write = Callable[..., Path]

TABLE = "text,mood,topic\n" + "".join(
    f"text {number},{'bad' if number % 2 else 'good'},{'abc'[number % 3]}\n" for number in range(20)
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture
def load(registry: Registry) -> Callable[..., Dataset]:
    """Load the rows of an experiment with one source; a task for each label column."""

    def load_source(*columns: str, **source: Any) -> Dataset:
        raw = {
            "name": "small",
            "data": {"rows": source},
            "tasks": {f"{column}_task": {"label": column} for column in columns},
        }
        experiment = Experiment.model_validate(raw, context={"registry": registry})
        return load_dataset(experiment.data, experiment.label_columns)

    return load_source


Load = Callable[..., Dataset]


def column(name: str) -> LabelColumns:
    return LabelColumns((name,), LabelFormat())


def error(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_file_is_divided_as_the_split_says(write: Write, load: Load) -> None:
    dataset = load("mood", path=write("a.csv", TABLE), split={"validation": 0.1, "test": 0.2})
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert dataset.splits["train"].texts == [f"text {number}" for number in range(14)]
    assert dataset.splits["validation"].texts == ["text 14", "text 15"]
    assert dataset.splits["test"].texts == [f"text {number}" for number in range(16, 20)]


def test_without_a_split_the_last_fifth_is_for_testing(write: Write, load: Load) -> None:
    dataset = load("mood", path=write("a.csv", TABLE))
    assert {name: len(split.texts) for name, split in dataset.splits.items()} == {"train": 16, "test": 4}


def test_a_split_without_rows_by_design_is_left_out(write: Write, load: Load) -> None:
    assert list(load("mood", path=write("a.csv", TABLE), split={"test": 0}).splits) == ["train"]


def test_targets_are_places_in_the_sorted_classes(write: Write, load: Load) -> None:
    dataset = load("mood", "topic", path=write("a.csv", TABLE))
    assert dataset.labels == {"mood_task": Classes(("bad", "good")), "topic_task": Classes(("a", "b", "c"))}
    targets = dataset.splits["train"].targets
    assert targets["mood_task"].dtype == np.int64
    assert targets["mood_task"][:4].tolist() == [1, 0, 1, 0]
    assert targets["topic_task"][:4].tolist() == [0, 1, 2, 0]


def test_two_tasks_may_share_a_label_column(write: Write, registry: Registry) -> None:
    raw = {
        "name": "small",
        "data": {"rows": {"path": write("a.csv", TABLE)}},
        "tasks": {"one": {"label": "mood"}, "two": {"label": "mood", "head": {"kind": "binary"}}},
    }
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    targets = load_dataset(experiment.data, experiment.label_columns).splits["test"].targets
    assert targets["one"].tolist() == targets["two"].tolist()


def test_targets_stay_with_their_texts_when_rows_are_shuffled(write: Write, load: Load) -> None:
    dataset = load("topic", path=write("a.csv", TABLE), split={"method": "random", "test": 0.3, "seed": 5})
    for split in dataset.splits.values():
        wanted = [int(text.removeprefix("text ")) % 3 for text in split.texts]
        assert split.targets["topic_task"].tolist() == wanted


def test_a_stratified_split_may_keep_the_proportions_of_any_column(write: Write, load: Load) -> None:
    split = {"method": "stratified", "by": "mood", "test": 0.4}
    dataset = load("topic", path=write("a.csv", TABLE), split=split)
    odd = [int(text.removeprefix("text ")) % 2 for text in dataset.splits["test"].texts]
    assert (len(odd), sum(odd)) == (8, 4)
    assert list(dataset.labels) == ["topic_task"]


def test_a_missing_column_to_stratify_by_is_a_data_error(write: Write, load: Load) -> None:
    path = write("a.csv", TABLE)
    split = {"method": "stratified", "by": "moood"}
    message = error(lambda: load("topic", path=path, split=split))
    assert message.startswith(f"{path}:2: moood: there is no such column")
    assert message.endswith("did you mean mood?")


def test_each_split_may_have_a_file_of_its_own(write: Write, load: Load) -> None:
    files = {
        "train": write("train.csv", "text,mood\na,good\nb,bad\n"),
        "validation": write("validation.csv", "text,mood\nc,bad\n"),
        "test": write("test.jsonl", '{"text": "d", "mood": "good"}\n'),
    }
    dataset = load("mood", **files)
    assert {name: split.texts for name, split in dataset.splits.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["d"],
    }
    assert dataset.splits["test"].targets["mood_task"].tolist() == [1]
    assert dataset.digests == {path: sha256(path) for path in files.values()}
    assert dataset.warnings == []


def test_a_split_beside_a_training_file_holds_out_validation_rows(write: Write, load: Load) -> None:
    files = {"train": write("train.csv", TABLE), "test": write("test.csv", "text,mood\na,good\nb,bad\n")}
    dataset = load("mood", **files, split={"validation": 0.2})
    assert {name: split.texts for name, split in dataset.splits.items()} == {
        "train": [f"text {number}" for number in range(16)],
        "validation": [f"text {number}" for number in range(16, 20)],
        "test": ["a", "b"],
    }
    stratified = load("mood", **files, split={"validation": 0.2, "method": "stratified", "by": "topic"})
    assert len(stratified.splits["validation"].texts) == 4


def test_the_digest_is_of_the_whole_file_whatever_the_limit(write: Write, load: Load) -> None:
    path = write("a.csv", TABLE)
    assert load("mood", path=path, limit=10).digests == {path: sha256(path)}


HINT = "to have classes without a training row, name all in tasks.mood_task.labels.order"


def test_a_label_that_training_rows_lack_is_named_with_its_place(write: Write, load: Load) -> None:
    train = write("train.csv", "text,mood\na,good\nb,bad\n")
    test = write("test.csv", 'text,mood\nc,bad\n"d\ne",meh\nf,Good\n')
    known = "does not occur in the training rows, which have bad, good"
    assert error(lambda: load("mood", train=train, test=test)).splitlines() == [
        f"{test}:3: mood: label 'meh' of task mood_task {known}",
        f"{test}:5: mood: label 'Good' of task mood_task {known}",
        HINT,
    ]


def test_of_many_unseen_labels_the_first_20_and_the_total_are_told(write: Write, load: Load) -> None:
    train = write("train.csv", "text,mood\na,good\nb,bad\n")
    test = write("test.csv", "text,mood\n" + "".join(f"t{number},meh\n" for number in range(30)))
    found = error(lambda: load("mood", train=train, test=test)).splitlines()
    assert len(found) == 22
    assert found[-2:] == ["... and 10 more; 30 problems in all", HINT]


def test_a_task_with_one_class_is_refused(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\n" + "".join(f"t{number},good\n" for number in range(9)) + "t9,bad\n")
    assert error(lambda: load("mood", path=path)) == (
        "task mood_task has one class only in its 8 training rows, 'good'; "
        "there is nothing to learn; look at the split or the limit"
    )


def test_a_class_with_one_row_is_a_class(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\nt,bad\n" + "".join(f"t{number},good\n" for number in range(9)))
    assert load("mood", path=path).labels["mood_task"].names == ("bad", "good")


def test_texts_that_occur_in_two_splits_are_counted(write: Write, load: Load) -> None:
    train = write("train.csv", "text,mood\na,good\nb,bad\nc,bad\n")
    validation = write("validation.csv", "text,mood\nb,bad\nd,good\n")
    test = write("test.csv", "text,mood\ne,bad\nd,good\nc,bad\nb,bad\n")
    dataset = load("mood", train=train, validation=validation, test=test)
    flatters = "which flatters the results; the first is"
    assert dataset.warnings == [
        f"1 of 2 validation texts also occur in train, {flatters} {validation}:2, the same as {train}:3",
        f"1 of 4 test texts also occur in validation, {flatters} {test}:3, the same as {validation}:3",
        f"2 of 4 test texts also occur in train, {flatters} {test}:4, the same as {train}:4",
    ]


def test_training_texts_that_repeat_are_counted(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\na,good\na,bad\na,good\nb,bad\nc,bad\n")
    assert load("mood", path=path).warnings == ["2 of 4 training texts repeat an earlier one"]


def test_texts_that_repeat_within_the_test_rows_are_no_overlap(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\na,good\nb,bad\nc,good\nc,good\n")
    assert load("mood", path=path, split={"test": 0.5}).warnings == []


def test_an_empty_split_is_a_data_error(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\na,good\nb,bad\n")
    message = error(lambda: load("mood", path=path))
    assert message == "0.2 of 2 rows leaves the test split empty; raise the fraction or the limit"


def test_errors_of_rows_are_data_errors(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\na,good\n,bad\n")
    assert error(lambda: load("mood", path=path)).splitlines()[0] == f"{path}:3: text: the text is empty"


def test_a_file_is_read_for_tasks_whose_classes_are_known(write: Write) -> None:
    path = write("new.csv", "text,mood,other\na,good,x\nb,good,y\n")
    labels = {"first": Classes(("bad", "good")), "second": Classes(("x", "y"))}
    rows = read_all_rows(path, Source(path=path), "rows", {"first": column("mood"), "second": column("other")}, labels)
    assert rows.texts == ["a", "b"]
    assert {task: targets.tolist() for task, targets in rows.targets.items()} == {"first": [1, 1], "second": [0, 1]}


def test_a_file_with_an_unknown_label_is_refused(write: Write) -> None:
    path = write("new.csv", "text,mood\na,good\nb,meh\n")
    message = error(
        lambda: read_all_rows(
            path, Source(path=path), "rows", {"task": column("mood")}, {"task": Classes(("bad", "good"))}
        )
    )
    assert message == (
        f"{path}:3: mood: label 'meh' of task task does not occur in the training rows, which have bad, good"
    )


def test_a_label_that_150_classes_lack_is_told_in_short(write: Write, load: Load) -> None:
    train = write("train.csv", "text,mood\n" + "".join(f"t{n},intent_{n:03d}\n" for n in range(150)))
    test = write("test.csv", "text,mood\n" + "".join(f"t{n},intent_0{n}x\n" for n in range(150)))
    first, *_, last, _ = error(lambda: load("mood", train=train, test=test)).splitlines()
    assert first == (
        f"{test}:2: mood: label 'intent_00x' of task mood_task does not occur in the training rows, which have "
        "150 other classes; did you mean intent_100?"
    )
    assert last == "... and 130 more; 150 problems in all"


def test_classes_that_look_alike_are_told_with_the_setting_that_makes_them_one(write: Write, load: Load) -> None:
    path = write("a.csv", "text,mood\na,Pos\nb,pos\nc,neg\nd,neg\ne,neg\n")
    dataset = load("mood", path=path)
    assert dataset.labels["mood_task"].names == ("Pos", "neg", "pos")
    assert dataset.warnings == [
        f"task mood_task has classes that look alike: 'Pos' ({path}:2) and 'pos' ({path}:3); to make them one, set "
        "tasks.mood_task.labels: {casefold: true}"
    ]


def test_spellings_that_a_task_makes_one_are_one_class(registry: Registry, write: Write) -> None:
    path = write("a.csv", "text,mood\na,Pos \nb,pos\nc,neg\nd,neg\ne,POS\n")
    raw = {
        "name": "small",
        "data": {"rows": {"path": path}},
        "tasks": {"mood": {"label": "mood", "labels": {"casefold": True}}},
    }
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    dataset = load_dataset(experiment.data, experiment.label_columns)
    assert dataset.labels["mood"].names == ("neg", "pos")
    assert dataset.splits["test"].targets["mood"].tolist() == [1]
    (warning,) = dataset.warnings
    assert warning.startswith("task mood: 2 of 5 labels are read in another spelling")


def test_rows_that_are_skipped_are_among_the_warnings(write: Write, load: Load) -> None:
    path = write("a.csv", TABLE + ",good,a\n")
    (warning,) = load("mood", path=path, on_faulty_rows="skip").warnings
    assert warning.splitlines() == [
        f"{path}: 1 of 21 rows are faulty and were skipped:",
        f"  {path}:22: text: the text is empty",
    ]


def test_every_file_of_a_source_has_its_warnings(write: Write) -> None:
    files = {
        "train": write("train.csv", "text;mood\na;good\nb;bad\n"),
        "test": write("test.csv", "text;mood\nd;good\n"),
    }
    found = read_splits(Source(**files), {"mood": column("mood")})
    assert [warning.split(":")[0] for warning in found.warnings] == [str(files["train"]), str(files["test"])]


def test_a_file_that_is_read_alone_warns_of_what_it_is_like(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("new.csv", "text;mood\na;good\n")
    read_all_rows(path, Source(path=path), "rows", {"task": column("mood")}, {"task": Classes(("bad", "good"))})
    assert caplog.messages == [f"{path}: columns are separated by semicolons, as the first line shows"]


def test_the_first_500_real_reviews_are_400_to_train_on_and_100_to_test_on(reviews: Path, load: Load) -> None:
    pattern = r"(?P<category>\S+) (?P<sentiment>\S+) (?P<id>\S+) (?P<text>.*)"
    dataset = load("sentiment", "category", path=reviews, pattern=pattern, limit=500)
    assert {name: len(split.texts) for name, split in dataset.splits.items()} == {"train": 400, "test": 100}
    assert dataset.labels["sentiment_task"].names == ("neg", "pos")
    assert len(dataset.labels["category_task"].names) == 6
    assert dataset.digests == {reviews: sha256(reviews)}


SOURCES = {
    "films": "text,mood\na,good\nb,bad\nc,good\nd,bad\n",
    "letters": "text,mood,topic\ne,calm,x\nf,,y\ng,angry,\na,calm,x\nh,angry,y\n",
}


@pytest.fixture
def two_sources(registry: Registry, write: Write) -> Dataset:
    """Two sources, of which the second has two tasks whose labels are not everywhere."""
    data = {name: {"path": str(write(f"{name}.csv", rows))} for name, rows in SOURCES.items()}
    tasks = {
        "mood": {"label": "mood", "source": "films"},
        "tone": {"label": "mood", "source": "letters", "missing": "skip"},
        "topic": {"label": "topic", "source": "letters", "missing": "skip"},
    }
    raw = {"name": "two", "data": {name: one | {"split": {"test": 0.25}} for name, one in data.items()}, "tasks": tasks}
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    return load_dataset(experiment.data, experiment.label_columns)


def test_rows_of_several_sources_stand_one_after_another(two_sources: Dataset) -> None:
    train = two_sources.splits["train"]
    assert train.texts == ["a", "b", "c", "e", "f", "g", "a"]
    assert train.source_sizes == {"films": 3, "letters": 4}
    assert {task: labelled.tolist() for task, labelled in train.labelled.items()} == {
        "mood": [True, True, True, False, False, False, False],
        "tone": [False, False, False, True, False, True, True],
        "topic": [False, False, False, True, True, False, True],
    }
    assert train.labelled_counts == {"mood": 3, "tone": 3, "topic": 3}
    texts, targets = train.of_task("tone")
    assert texts == ["e", "g", "a"]
    assert [two_sources.labels["tone"].names[target] for target in targets] == ["calm", "angry", "calm"]


def test_each_source_has_test_rows_of_its_own(two_sources: Dataset) -> None:
    test = two_sources.splits["test"]
    assert {task: test.of_task(task)[0] for task in test.targets} == {"mood": ["d"], "tone": ["h"], "topic": ["h"]}


def test_equal_texts_of_two_sources_are_no_repetition(two_sources: Dataset) -> None:
    assert two_sources.warnings == []


def test_a_test_text_of_one_source_that_trains_in_another_is_told(registry: Registry, write: Write) -> None:
    first, second = write("a.csv", "text,mood\na,x\nb,y\n"), write("b.csv", "text,mood\nc,x\nd,y\n")
    test = write("test.csv", "text,mood\na,x\n")
    raw = {
        "name": "two",
        "data": {"films": {"train": str(first)}, "letters": {"train": str(second), "test": str(test)}},
        "tasks": {name: {"label": "mood", "source": name} for name in ("films", "letters")},
    }
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    assert load_dataset(experiment.data, experiment.label_columns).warnings == [
        "1 of 1 test texts of letters also occur in train of films, which flatters the results; "
        f"the first is {test}:2, the same as {first}:2",
        "task films has no label in the 1 test rows, so nothing is measured of it there",
    ]


def test_a_task_without_training_labels_is_refused(registry: Registry, write: Write) -> None:
    train = write("train.csv", "text,mood,topic\na,x,\nb,y,\n")
    test = write("test.csv", "text,mood,topic\nc,x,z\n")
    raw = {
        "name": "gaps",
        "data": {"rows": {"train": str(train), "test": str(test)}},
        "tasks": {"mood": {"label": "mood"}, "topic": {"label": "topic", "missing": "skip"}},
    }
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    assert error(lambda: load_dataset(experiment.data, experiment.label_columns)) == (
        "task topic has no label in its 2 training rows; look at the split or the limit"
    )


def test_a_task_without_validation_labels_is_told(registry: Registry, write: Write) -> None:
    train = write("train.csv", "text,mood,topic\na,x,u\nb,y,v\n")
    validation = write("validation.csv", "text,mood,topic\nc,x,\nd,y,\n")
    raw = {
        "name": "gaps",
        "data": {"rows": {"train": str(train), "validation": str(validation)}},
        "tasks": {"mood": {"label": "mood"}, "topic": {"label": "topic", "missing": "skip"}},
    }
    experiment = Experiment.model_validate(raw, context={"registry": registry})
    dataset = load_dataset(experiment.data, experiment.label_columns)
    assert dataset.tasks_with_labels("validation") == ["mood"]
    assert dataset.tasks_with_labels("test") == []
    assert dataset.warnings == [
        "task topic has no label in the 2 validation rows, so nothing is measured of it there, "
        "and validation/loss is that of the other tasks"
    ]
