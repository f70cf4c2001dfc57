"""``topwork train`` says how texts were encoded, and prints results with intervals and where they are."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import topwork
from disks import small_disk
from topwork.engine.preparation import prepare

Command = Callable[..., tuple[int, str, str]]
TEXTS = ["The singer is wonderful.", "The zoom is broken, although the lens is a pleasure."]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"


SMALL = ["--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false"]


SPEED = r"in \d+\.\d s, [\d,.]+ texts/s"


@pytest.mark.slow
def test_train_says_how_many_texts_the_store_had(command: Command) -> None:
    _, first, _ = command("train", QUICKSTART, *SMALL)
    _, second, _ = command("train", QUICKSTART, *SMALL)
    _, more, _ = command("train", QUICKSTART, *SMALL, "--set", "data.reviews.limit=110")
    built = re.search(
        rf"^100 texts encoded {SPEED}, 0 found; kept in the store, ([0-9a-f]{{12}})$", first, re.MULTILINE
    )
    assert built
    assert f"0 texts encoded, 100 found; kept in the store, {built[1]}" in second.splitlines()
    assert re.search(rf"^10 texts encoded {SPEED}, 100 found; kept in the store, {built[1]}$", more, re.MULTILINE)
    (folder,) = (Path(os.environ["TOPWORK_CACHE"]) / "activations").iterdir()
    assert folder.name.startswith(built[1])


@pytest.mark.slow
def test_train_says_why_nothing_is_stored(command: Command) -> None:
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "training.store=off")
    assert re.search(rf"^100 texts encoded {SPEED}, 0 found; not stored: training.store is off$", out, re.MULTILINE)


@pytest.mark.slow
def test_train_says_that_activations_do_not_fit_the_memory(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "training.store=off")
    said = "activations exceed the free memory and are computed for each batch; not stored: training.store is off"
    assert said in out.splitlines()


@pytest.mark.slow
def test_train_says_that_nothing_is_kept_where_all_trains(command: Command) -> None:
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "freeze={kind: none}")
    assert "no activations are kept: the first stage trains" in out.splitlines()


def test_a_required_store_that_cannot_serve_ends_with_code_5(command: Command) -> None:
    code, _, error = command(
        "train", QUICKSTART, *SMALL, "--set", "freeze={kind: none}", "--set", "training.store=require"
    )
    assert code == 5
    assert error.endswith("training.store: require, but the first stage trains, so there is nothing to keep\n")


@pytest.mark.slow
def test_train_prints_results_with_intervals_and_where_they_are(
    command: Command, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    code, out, _ = command("train", QUICKSTART, "--set", "training.epochs=1", "--set", "data.reviews.limit=100")
    assert code == 0
    assert "epoch   1   sentiment: training loss " in out
    assert "test rows, weights of epoch 1 of 1" in out
    assert "95 % interval" in out
    folder = next(line for line in out.splitlines() if line.startswith("model: ")).removeprefix("model: ")
    assert topwork.load_model(folder).predict(TEXTS)
    assert f"topwork ui --uri {store_uri}" in out


@pytest.mark.slow
def test_a_disk_without_room_for_the_model_is_told_before_anything_is_encoded(command: Command) -> None:
    with small_disk("size=40m") as disk:
        code, out, err = command("train", QUICKSTART, *SMALL, "--output", disk / "model")
        assert list(disk.iterdir()) == []
    assert (code, out.strip()) == (5, "")
    assert re.fullmatch(
        r"error: \S+/model needs 9\d MB, and 4\d MB are free there; make room, or give a folder on another disk\n", err
    )


@pytest.mark.slow
def test_a_model_that_does_not_fit_its_disk_after_all_is_put_elsewhere_and_its_figures_are_printed(
    command: Command,
) -> None:
    model = prepare(topwork.load_experiment(QUICKSTART)).model
    weights = sum(weight.nbytes for weight in model.state_dict().values())
    with small_disk(f"size={weights // 1024 + 200}k") as disk:  # without room for the tokenizer
        code, out, err = command("train", QUICKSTART, *SMALL, "--output", disk / "model")
        assert list(disk.iterdir()) == []
    assert code == 5
    assert "sentiment  accuracy" in out
    (error,) = (line for line in err.splitlines() if line.startswith("error: "))
    place = Path(error.rpartition("; the model is in ")[2])
    assert "model could not be written: " in error
    assert f"model: {place}" in out
    assert topwork.load_model(place).predict(TEXTS)
    shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_program_reads_the_result_alone(command: Command, format: str) -> None:
    code, out, err = command("train", QUICKSTART, *SMALL, "--format", format)
    assert code == 0
    assert "epoch   1" in err
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
    else:
        result = json.loads(out)
        assert (result["split"], result["best_epoch"]) == ("test", 1)
        rows = result["metrics"]
    assert [f"{row['task']}/{row['metric']}" for row in rows] == [
        f"{task}/{metric}" for task in ("sentiment", "category") for metric in ("accuracy", "macro_f1", "matthews")
    ]
    assert {int(row["rows"]) for row in rows} == {25}
