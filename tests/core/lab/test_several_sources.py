"""Several sources, and rows that lack labels, through a run, its comparison, a study, and the model that is served."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

import topwork
from topwork.engine.model_folder import load_model
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.lab.comparison import compare
from topwork.lab.result import Result
from topwork.lab.runs import train
from topwork.registry import discover

pytestmark = pytest.mark.slow


def rows_of_films() -> str:
    """Rows of which each has a mood, and every second one a genre."""
    moods = [("good", "fine"), ("bad", "dull"), ("good", "lovely"), ("bad", "poor")]
    rows = [
        f"a {word} film {number},{mood},{('war' if number % 3 else 'love') if number % 2 else ''}"
        for number, (mood, word) in ((number, moods[number % 4]) for number in range(48))
    ]
    return "\n".join(["text,mood,genre", *rows]) + "\n"


def rows_of_letters() -> str:
    rows = [f"dear friend {number} {'!' * (number % 2)},{'loud' if number % 2 else 'calm'}" for number in range(30)]
    return "\n".join(["body,tone", *rows]) + "\n"


def rows_of_pairs() -> str:
    """Pairs of texts with how much they have in common."""
    rows = [
        f"a cat sat {number},{'a cat sat' if number % 2 else 'stocks fell'} {number},{number % 2 + number / 100}"
        for number in range(24)
    ]
    return "\n".join(["first,second,score", *rows]) + "\n"


def rows_of_words() -> str:
    """Texts that are divided into words, each of which has a class, and some of which have a kind."""
    kinds = [["a", "red", "cat"], ["dogs", "run"], ["the", "cat", "runs", "fast"]]
    tags = [["DET", "ADJ", "NOUN"], ["NOUN", "VERB"], ["DET", "NOUN", "VERB", None]]
    rows = [
        {"words": [*kinds[n % 3], str(n)], "tags": [*tags[n % 3], "NUM"], "kind": "cd"[n % 3 // 2] if n % 2 else None}
        for n in range(30)
    ]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def experiment(folder: Path, uri: str, rate: float) -> Experiment:
    raw = {
        "name": "many",
        "data": {
            "films": {"path": str(folder / "films.csv"), "split": {"validation": 0.25, "test": 0.25}},
            "letters": {
                "path": str(folder / "letters.csv"),
                "text": "body",
                "split": {"validation": 0.2, "test": 0.2},
            },
            "pairs": {
                "path": str(folder / "pairs.csv"),
                "text": ["first", "second"],
                "split": {"validation": 0.25, "test": 0.25},
            },
            "sentences": {
                "path": str(folder / "sentences.jsonl"),
                "words": "words",
                "split": {"validation": 0.2, "test": 0.2},
            },
        },
        "backbone": {"kind": "tiny"},
        "freeze": {"kind": "all_except", "patterns": ["layer.1.ffn"]},
        "optimizer": {"heads_lr": rate},
        "tasks": {
            "mood": {"label": "mood", "source": "films", "head": {"kind": "binary"}},
            "genre": {"label": "genre", "source": "films", "missing": "skip"},
            "tone": {"label": "tone", "source": "letters"},
            "joint": {"label": "score", "source": "pairs", "head": {"kind": "regression", "hidden": [4]}},
            "alike": {"label": "score", "source": "pairs", "head": {"kind": "similarity"}},
            "tag": {"label": "tags", "source": "sentences", "missing": "skip", "head": {"kind": "tagging"}},
            "kind": {"label": "kind", "source": "sentences", "missing": "skip"},
        },
        "training": {"epochs": 2, "shuffle": True, "device": "cpu", "monitor": "validation/loss"},
        "tracking": {"uri": uri, "log_model": rate < 1e-2},
        "study": {
            "search": {"optimizer.heads_lr": {"choices": [rate, 3 * rate]}},
            "objective": "mean(mood/accuracy, genre/accuracy, tone/accuracy)",
            "trials": 2,
            "workers": 1,
        },
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


@dataclass(frozen=True)
class Trained:
    """Two runs that differ in a rate, and where they are."""

    folder: Path
    uri: str
    results: tuple[Result, Result]


@pytest.fixture(scope="module")
def trained(_migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("many")
    (folder / "films.csv").write_text(rows_of_films())
    (folder / "letters.csv").write_text(rows_of_letters())
    (folder / "pairs.csv").write_text(rows_of_pairs())
    (folder / "sentences.jsonl").write_text(rows_of_words())
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    first, second = (train(experiment(folder, uri, rate), output=folder / f"{rate:g}") for rate in (1e-3, 1e-2))
    yield Trained(folder, uri, (first, second))


def test_each_task_is_measured_on_its_own_test_rows(trained: Trained) -> None:
    result = trained.results[0]
    assert {name: estimate.rows for name, estimate in result.estimates.items() if "accuracy" in name} == {
        "mood/accuracy": 12,
        "genre/accuracy": 6,
        "tone/accuracy": 6,
        "tag/accuracy": 6,
        "kind/accuracy": 3,
    }
    assert {result.estimates[f"{task}/rmse"].rows for task in ("joint", "alike")} == {6}
    tasks = ["mood", "genre", "tone", "joint", "alike", "tag", "kind"]
    losses = [*[f"{task}/loss" for task in tasks], "loss"]
    assert [name for name in result.epochs[0].metrics if name.endswith("/loss")] == [
        f"{split}/{name}" for split in ("training", "validation") for name in losses
    ]


def test_mlflow_has_every_source_and_how_many_rows_are_labelled(trained: Trained) -> None:
    run = mlflow.MlflowClient(trained.uri).get_run(trained.results[0].run_id)
    assert sorted(one.dataset.name for one in run.inputs.dataset_inputs) == ["films", "letters", "pairs", "sentences"]
    assert {name: value for name, value in run.data.params.items() if name.startswith(("rows", "labelled"))} == {
        "rows.train": "72",
        "rows.validation": "30",
        "rows.test": "30",
        "labelled.mood.train": "24",
        "labelled.genre.train": "12",
        "labelled.tone.train": "18",
        "labelled.joint.train": "12",
        "labelled.alike.train": "12",
        "labelled.tag.train": "18",
        "labelled.kind.train": "9",
        "labelled.mood.validation": "12",
        "labelled.genre.validation": "6",
        "labelled.tone.validation": "6",
        "labelled.joint.validation": "6",
        "labelled.alike.validation": "6",
        "labelled.tag.validation": "6",
        "labelled.kind.validation": "3",
        "labelled.mood.test": "12",
        "labelled.genre.test": "6",
        "labelled.tone.test": "6",
        "labelled.joint.test": "6",
        "labelled.alike.test": "6",
        "labelled.tag.test": "6",
        "labelled.kind.test": "3",
    }


def test_runs_are_compared_task_by_task_on_the_same_rows(trained: Trained) -> None:
    comparison = compare([result.name for result in trained.results], uri=trained.uri)
    assert {name: [one.rows for one in both] for name, both in comparison.estimates.items() if "accuracy" in name} == {
        "mood/accuracy": [12, 12],
        "genre/accuracy": [6, 6],
        "tone/accuracy": [6, 6],
        "tag/accuracy": [6, 6],
        "kind/accuracy": [3, 3],
    }
    assert comparison.estimates["genre/accuracy"][0] == trained.results[0].estimates["genre/accuracy"]
    assert comparison.estimates["tag/accuracy"][0] == trained.results[0].estimates["tag/accuracy"]


def test_a_file_is_measured_by_the_tasks_of_the_source_that_it_is_like(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained.results[0].folder)
    with pytest.raises(
        ConfigurationError, match=r"^say which source the file is like, one of films, letters, pairs, sentences$"
    ):
        model.evaluate(trained.folder / "letters.csv")
    with pytest.raises(
        ConfigurationError, match=r"^the model has no source 'letter', only films, letters, pairs, sentences$"
    ):
        model.evaluate(trained.folder / "letters.csv", source="letter")
    own, which = model.evaluate(trained.folder / "films.csv", source="films")
    assert which == "test rows of the experiment"
    assert own == {
        name: figure for name, figure in trained.results[0].estimates.items() if name.startswith(("mood", "genre"))
    }
    (tmp_path / "more.csv").write_text("text,mood,genre\na,good,\nb,bad,war\nc,,\nd,bad,love\n")
    with pytest.raises(topwork.DataError, match=r"more.csv:4: mood: the label is empty"):
        model.evaluate(tmp_path / "more.csv", source="films")
    (tmp_path / "more.csv").write_text("text,mood,genre\na,good,\nb,bad,war\nd,bad,love\n")
    figures, _ = model.evaluate(tmp_path / "more.csv", source="films")
    assert {name: figure.rows for name, figure in figures.items() if "accuracy" in name} == {
        "mood/accuracy": 3,
        "genre/accuracy": 2,
    }


def test_the_model_that_mlflow_has_answers_for_all_tasks(trained: Trained) -> None:
    mlflow.set_tracking_uri(trained.uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"runs:/{trained.results[0].run_id}/model")
    finally:
        mlflow.set_tracking_uri(None)
    answers = loaded.predict(["a fine film", "a cat sat\ta cat lay"])
    tasks = ["mood", "genre", "tone", "tag", "kind", "joint", "alike"]
    assert [name for name in answers.columns if "." not in name] == tasks
    assert answers[tasks].isna().to_numpy().tolist() == [[False] * 5 + [True] * 2, [True] * 5 + [False] * 2]
    assert answers["tag.words"].tolist() == [["a", "fine", "film"], None]
    (tags, _), (probabilities, _) = answers["tag"].tolist(), answers["tag.probabilities"].tolist()
    assert [max(one, key=one.get) for one in probabilities] == tags


def test_a_pair_is_a_tuple_or_a_text_with_a_tab(trained: Trained) -> None:
    model = load_model(trained.results[0].folder)
    one, same, single = model.predict([("a cat", "a dog"), "a cat\ta dog", "a cat"])
    assert one == same
    assert (list(one), list(single)) == (["joint", "alike"], ["mood", "genre", "tone", "tag", "kind"])
    with pytest.raises(topwork.DataError, match=r"^1 of 1 texts are empty: number 1$"):
        model.predict(["a cat\t "])


def test_a_model_without_pairs_refuses_them(trained: Trained) -> None:
    model = load_model(trained.results[0].folder)
    tasks = {name: task for name, task in model.experiment["tasks"].items() if task["source"] in ("films", "letters")}
    for task in ("joint", "alike", "tag", "kind"):
        del model.model.tasks[task]
    alone = dataclasses.replace(model, experiment=model.experiment | {"tasks": tasks})
    assert list(alone.predict(["a\tb"])[0]) == ["mood", "genre", "tone"]  # a tab is a blank like others
    with pytest.raises(topwork.DataError, match=r"^text number 2: every task of this model reads one text$"):
        alone.predict(["a", ("a", "b")])


def test_words_are_given_as_a_list_or_divided_at_blanks(trained: Trained) -> None:
    model = load_model(trained.results[0].folder)
    divided, same, one = model.predict(["a red  cat", ["a", "red", "cat"], ["a red", "cat"]])
    assert list(same) == ["tag", "kind"]
    assert divided["tag"] == same["tag"]
    assert divided["tag"].words == ("a", "red", "cat")
    assert isinstance(divided["tag"].label, tuple)
    assert [len(prediction["tag"].label) for prediction in (divided, one)] == [3, 2]  # type: ignore[arg-type]
    alone = [model.predict([text])[0]["tag"].label for text in ("a red cat", "dogs run fast 4")]
    assert [found["tag"].label for found in model.predict(["a red cat", "dogs run fast 4"])] == alone
    with pytest.raises(topwork.DataError, match=r"^2 of 2 texts are empty: number 1, 2$"):
        model.predict([["a", " "], []])


def test_words_that_are_not_read_have_no_label(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(trained.results[0].folder)
    (found,) = model.predict([["a"] * 50])
    model.predict([" ".join(["a"] * 50), "a"])  # read whole, and word by word
    assert caplog.messages == [
        "1 of 1 texts are longer than the model reads and were truncated; 20 of their words are not read",
        "1 of 2 texts are longer than the model reads and were truncated; 20 of their words are not read",
    ]
    assert found["tag"].words == ("a",) * 30  # the backbone reads 32 tokens
    assert len(found["tag"].label) == 30  # type: ignore[arg-type]


def test_words_are_measured_in_a_file_of_their_own(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained.results[0].folder)
    own, _ = model.evaluate(trained.folder / "sentences.jsonl", source="sentences")
    assert own == {
        name: figure for name, figure in trained.results[0].estimates.items() if name.startswith(("tag", "kind"))
    }
    (tmp_path / "more.jsonl").write_text('{"words": ["a", "cat"], "tags": ["DET", null], "kind": null}\n')
    figures, _ = model.evaluate(tmp_path / "more.jsonl", source="sentences")
    assert {name: figure.rows for name, figure in figures.items()} == {"tag/accuracy": 1, "tag/macro_f1": 1}
    (tmp_path / "more.jsonl").write_text('{"words": ["a", "cat"], "tags": ["DET", "CAT"], "kind": null}\n')
    with pytest.raises(topwork.DataError, match=r"tags: label 'CAT' of task tag does not occur in the training rows"):
        model.evaluate(tmp_path / "more.jsonl", source="sentences")


def test_a_study_evaluates_trials_on_all_sources(trained: Trained) -> None:
    result = topwork.study(experiment(trained.folder, trained.uri, 1e-3))
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    best = result.evaluations[result.best[0]]
    assert {name: figure.rows for name, figure in best.estimates.items() if "accuracy" in name} == {
        "mood/accuracy": 12,
        "genre/accuracy": 6,
        "tone/accuracy": 6,
        "tag/accuracy": 6,
        "kind/accuracy": 3,
    }
