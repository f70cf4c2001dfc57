"""``topwork new experiment`` writes an experiment that trains as it is, and says what it did not understand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from topwork.cli.new_experiment import files_of_splits
from topwork.experiment.schema import Experiment

Command = Callable[..., tuple[int, str, str]]
REVIEWS = Path(__file__).parents[3] / "experiments" / "data" / "synthetic_reviews.csv"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begin(command: Command, data: str | Path) -> tuple[Experiment, str]:
    code, out, err = command("new", "experiment", data, "--output", "mine.yaml")
    assert code == 0, err
    return topwork.load_experiment("mine.yaml"), out


def heads(experiment: Experiment) -> dict[str, str]:
    return {name: task.head.kind for name, task in experiment.tasks.items()}


def rows_of(count: int, **columns: Callable[[int], object]) -> str:
    rows = [{"text": f"some words about row {n}", **{k: make(n) for k, make in columns.items()}} for n in range(count)]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def test_the_reviews_are_understood(command: Command) -> None:
    shutil.copy(REVIEWS, "reviews.csv")
    code, out, _ = command("new", "experiment", "reviews.csv")
    assert code == 0
    assert out == (
        "reviews.yaml: 720 rows, text text; labels category (6 classes), sentiment (2 classes)\n"
        "  topwork plan reviews.yaml\n  topwork train reviews.yaml\n"
    )
    experiment = topwork.load_experiment("reviews.yaml")
    assert heads(experiment) == {"category": "classification", "sentiment": "binary"}
    split = experiment.data["rows"].split
    assert split is not None
    assert (split.method, split.by) == ("stratified", "category")


@pytest.mark.slow
def test_what_it_writes_trains_as_it_is(command: Command) -> None:
    shutil.copy(REVIEWS, "reviews.csv")
    begin(command, "reviews.csv")
    code, out, err = command("train", "mine.yaml", "--set", "training.epochs=2", "--set", "tracking.enabled=false")
    assert code == 0, err
    assert "category   accuracy" in out


def test_every_kind_of_label_gets_a_head(command: Command, write: Callable[..., Path]) -> None:
    text = rows_of(
        60,
        yes=lambda n: "yn"[n % 2],
        stars=lambda n: 1 + n % 5,
        price=lambda n: n / 7,
        tags=lambda n: ["a"] * (n % 2) + ["b"] * (n % 3 > 0),
        votes=lambda n: {"good": n % 4 + 1, "bad": 1},
        id=lambda n: f"row-{n}",
    )
    experiment, out = begin(command, write("rows.jsonl", text))
    assert heads(experiment) == {
        "yes": "binary",
        "stars": "classification",
        "price": "regression",
        "tags": "multilabel",
        "votes": "classification",
    }
    assert "not used: id, 60 different values in 60 rows" in out
    assert "ordinal, if their order matters" in Path("mine.yaml").read_text()


def test_rows_without_a_label_and_rare_classes_are_provided_for(command: Command, write: Callable[..., Path]) -> None:
    text = rows_of(60, mood=lambda n: None if n % 3 else "abcd"[n % 4], genre=lambda n: "xyz"[n % 3 if n > 5 else 0])
    experiment, _ = begin(command, write("rows.jsonl", text))
    assert experiment.tasks["mood"].missing == "skip"
    assert experiment.tasks["mood"].labels.order == ("a", "b", "c", "d")
    assert experiment.tasks["genre"].labels.order is None
    assert "missing: skip   # rows without such a label: 40" in Path("mine.yaml").read_text()


def test_files_of_splits_are_taken_together(command: Command, write: Callable[..., Path]) -> None:
    for name, count in (("my-train.jsonl", 60), ("my-dev.jsonl", 9), ("my-test.jsonl", 9)):
        write(name, rows_of(count, mood=lambda n: "ab"[n % 2], file=lambda n, name=name: f"{name}{n % 2}"))
    experiment, out = begin(command, "my-train.jsonl")
    source = experiment.data["rows"]
    names = [path.name for path in (source.train, source.validation, source.test) if path]
    assert names == ["my-train.jsonl", "my-dev.jsonl", "my-test.jsonl"]
    assert heads(experiment) == {"mood": "binary"}
    assert "file, its classes are others in the other files" in out


def test_only_whole_words_of_a_name_name_a_split(tmp_path: Path) -> None:
    for name in ("trainers.csv", "testers.csv", "a.train.csv", "a.valid.csv"):
        (tmp_path / name).touch()
    assert files_of_splits(tmp_path / "trainers.csv") == {}
    assert set(files_of_splits(tmp_path / "a.train.csv")) == {"train", "validation"}


def test_a_file_without_a_header_gets_names(command: Command, write: Callable[..., Path]) -> None:
    rows = [f"{n % 2}\tthis is the text of the row {n}" + "\tmore" * (n % 20 == 19) for n in range(60)]
    experiment, _ = begin(command, write("rows.tsv", "\n".join(rows) + "\n"))
    assert experiment.data["rows"].columns == ("column_1", "column_2", "...")
    assert experiment.data["rows"].text == "column_2"
    assert heads(experiment) == {"column_1": "binary"}


def test_faulty_rows_are_left_out_and_that_is_written(command: Command, write: Callable[..., Path]) -> None:
    rows = [f"{'yn'[n % 2]},this is the text of the row {n}" for n in range(60)]
    rows[30] = 'y,a "broken" row,too,many,fields'
    experiment, _ = begin(command, write("rows.csv", "label,text\n" + "\n".join(rows) + "\n"))
    assert experiment.data["rows"].on_faulty_rows == "skip"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_what_stands_between_fields_is_seen(command: Command, write: Callable[..., Path], mark: str) -> None:
    rows = [f"this is the text of the row {n}{mark}{'yn'[n % 2]}" for n in range(60)]
    experiment, _ = begin(command, write("rows.csv", "\n".join([f"text{mark}label", *rows]) + "\n"))
    assert heads(experiment) == {"label": "binary"}


def test_columns_whose_names_look_alike_are_two_tasks(command: Command, write: Callable[..., Path]) -> None:
    rows = [{"text": f"this is the text of row {n}", "a b": "yn"[n % 2], "a_b": "xyz"[n % 3]} for n in range(60)]
    experiment, _ = begin(command, write("rows.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows)))
    assert heads(experiment) == {"a_b": "binary", "a_b_2": "classification"}


def test_what_it_writes_and_does_not_fit_is_an_error_of_data(command: Command, write: Callable[..., Path]) -> None:
    text = "text,label\n" + "".join(f"this is the text of row {n},{'yn'[n % 2]}\n" for n in range(4))
    code, _, err = command("new", "experiment", write("rows.csv", text))
    assert code == 3
    assert "rows.yaml is written, but does not fit all rows yet" in err


def test_pairs_are_named_together(command: Command, write: Callable[..., Path]) -> None:
    rows = [f"a first sentence {n}\ta second sentence {n}\t{n % 6 / 2}" for n in range(60)]
    experiment, _ = begin(command, write("rows.tsv", "sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n"))
    assert experiment.data["rows"].text == ("sentence1", "sentence2")
    assert heads(experiment) == {"score": "regression"}
    assert "# similarity compares the two texts" in Path("mine.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("nowhere.csv", None, "cannot be read"),
        ("rows.txt", "a text\n", "set `pattern` to read the lines of a .txt file"),
        ("rows.csv", "a,b\n1,2\n", "no column seems to have texts"),
        ("rows.csv", "text\n" + "some words are here\n" * 3 + "and other words here\n", "no column seems to have"),
        ("rows.csv", "text,label\n", "the file holds no rows that can be read"),
        ("rows.jsonl", "{\n", "the file holds no rows that can be read"),
    ],
)
def test_what_it_does_not_understand_is_refused(
    command: Command, tmp_path: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    code, _, err = command("new", "experiment", name)
    assert code in (2, 3)
    assert told in err
    assert not (tmp_path / "rows.yaml").exists()


def test_nothing_is_overwritten(command: Command) -> None:
    shutil.copy(REVIEWS, "reviews.csv")
    Path("reviews.yaml").touch()
    code, _, err = command("new", "experiment", "reviews.csv")
    assert code == 5
    assert "reviews.yaml exists already" in err


REAL = {
    "sts.train.tsv": {"column_4": "regression", "column_5": "regression"},
    "goemotions.train.tsv": {"column_2": "multilabel"},
    "snips.train.jsonl": {"intent": "classification", "slots": "tagging"},
    "ewt.dev.conllu": {"upos": "tagging"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_understood(command: Command, reviews: Path, name: str) -> None:
    experiment, out = begin(command, reviews.parent / name)
    assert heads(experiment) == REAL[name]
    assert "does not fit" not in out
