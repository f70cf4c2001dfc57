"""Several sources, and rows that lack labels, through a run, its comparison, a study, and the model that is served."""

import dataclasses
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
    }
    assert {result.estimates[f"{task}/rmse"].rows for task in ("joint", "alike")} == {6}
    losses = ["mood/loss", "genre/loss", "tone/loss", "joint/loss", "alike/loss", "loss"]
    assert [name for name in result.epochs[0].metrics if name.endswith("/loss")] == [
        f"{split}/{name}" for split in ("training", "validation") for name in losses
    ]


def test_mlflow_has_every_source_and_how_many_rows_are_labelled(trained: Trained) -> None:
    run = mlflow.MlflowClient(trained.uri).get_run(trained.results[0].run_id)
    assert sorted(one.dataset.name for one in run.inputs.dataset_inputs) == ["films", "letters", "pairs"]
    assert {name: value for name, value in run.data.params.items() if name.startswith(("rows", "labelled"))} == {
        "rows.train": "54",
        "rows.validation": "24",
        "rows.test": "24",
        "labelled.mood.train": "24",
        "labelled.genre.train": "12",
        "labelled.tone.train": "18",
        "labelled.joint.train": "12",
        "labelled.alike.train": "12",
        "labelled.mood.validation": "12",
        "labelled.genre.validation": "6",
        "labelled.tone.validation": "6",
        "labelled.joint.validation": "6",
        "labelled.alike.validation": "6",
        "labelled.mood.test": "12",
        "labelled.genre.test": "6",
        "labelled.tone.test": "6",
        "labelled.joint.test": "6",
        "labelled.alike.test": "6",
    }


def test_runs_are_compared_task_by_task_on_the_same_rows(trained: Trained) -> None:
    comparison = compare([result.name for result in trained.results], uri=trained.uri)
    assert {name: [one.rows for one in both] for name, both in comparison.estimates.items() if "accuracy" in name} == {
        "mood/accuracy": [12, 12],
        "genre/accuracy": [6, 6],
        "tone/accuracy": [6, 6],
    }
    assert comparison.estimates["genre/accuracy"][0] == trained.results[0].estimates["genre/accuracy"]


def test_a_file_is_measured_by_the_tasks_of_the_source_that_it_is_like(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained.results[0].folder)
    with pytest.raises(ConfigurationError, match=r"^say which source the file is like, one of films, letters, pairs$"):
        model.evaluate(trained.folder / "letters.csv")
    with pytest.raises(ConfigurationError, match=r"^the model has no source 'letter', only films, letters, pairs$"):
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
    tasks = ["mood", "genre", "tone", "joint", "alike"]
    assert [name for name in answers.columns if "." not in name] == tasks
    assert answers[tasks].isna().to_numpy().tolist() == [[False] * 3 + [True] * 2, [True] * 3 + [False] * 2]


def test_a_pair_is_a_tuple_or_a_text_with_a_tab(trained: Trained) -> None:
    model = load_model(trained.results[0].folder)
    one, same, single = model.predict([("a cat", "a dog"), "a cat\ta dog", "a cat"])
    assert one == same
    assert (list(one), list(single)) == (["joint", "alike"], ["mood", "genre", "tone"])
    with pytest.raises(topwork.DataError, match=r"^1 of 1 texts are empty: number 1$"):
        model.predict(["a cat\t "])


def test_a_model_without_pairs_refuses_them(trained: Trained) -> None:
    model = load_model(trained.results[0].folder)
    tasks = {name: task for name, task in model.experiment["tasks"].items() if task["source"] != "pairs"}
    for task in ("joint", "alike"):
        del model.model.tasks[task]
    alone = dataclasses.replace(model, experiment=model.experiment | {"tasks": tasks})
    assert list(alone.predict(["a\tb"])[0]) == ["mood", "genre", "tone"]  # a tab is a blank like others
    with pytest.raises(topwork.DataError, match=r"^text number 2: every task of this model reads one text$"):
        alone.predict(["a", ("a", "b")])


def test_a_study_evaluates_trials_on_all_sources(trained: Trained) -> None:
    result = topwork.study(experiment(trained.folder, trained.uri, 1e-3))
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    best = result.evaluations[result.best[0]]
    assert {name: figure.rows for name, figure in best.estimates.items() if "accuracy" in name} == {
        "mood/accuracy": 12,
        "genre/accuracy": 6,
        "tone/accuracy": 6,
    }
