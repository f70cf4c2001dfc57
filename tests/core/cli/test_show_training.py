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
from topwork.cli.format import Format
from topwork.cli.show_training import describe_power, show_result
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.observer import Epoch
from topwork.engine.preparation import prepare
from topwork.lab.result import Result

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
        r"error: \S+/model needs 9\d\.\d MB, and 4\d\.\d MB are free there; make room, or give a folder on another "
        r"disk\n",
        err,
    )


@pytest.mark.slow
def test_a_model_that_does_not_fit_its_disk_after_all_is_put_elsewhere_and_its_figures_are_printed(
    command: Command,
) -> None:
    model = prepare(topwork.load_experiment(QUICKSTART)).model
    weights = sum(weight.nbytes for weight in model.state_dict().values())
    with small_disk(f"size={weights // 1024 + 200}k") as disk:  # without room for the tokenizer
        code, out, err = command("train", QUICKSTART, *SMALL, "--output", disk / "model")
        assert [path.name for path in disk.iterdir()] == ["runs"]
        assert [path.name for path in (disk / "runs").rglob("*")] == ["model", "run.json"]
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


@pytest.mark.slow
def test_several_seeds_and_tasks_alone_are_shown_with_deviations_gains_and_what_they_cannot_show(
    command: Command,
) -> None:
    code, out, _ = command("train", QUICKSTART, *SMALL, "--seeds", 2, "--alone")
    assert code == 0
    lines = out.splitlines()
    (title,) = [number for number, line in enumerate(lines) if line.endswith("test rows, means over 2 seeds (0, 1)")]
    header = lines[title + 1].split()
    expected = "task metric value sd 95 % interval alone against alone 95 % interval rows"
    assert header == expected.split()
    assert re.search(r"^sentiment  accuracy +0\.\d{3} +0\.\d{3} .* [+-]0\.\d{3} ", "\n".join(lines), re.MULTILINE)
    assert (
        "with 2 seeds no two-sided sign-flip test over seeds can be significant at 5 %: its least p is 2/2^2 = 0.5; "
        "six seeds are the fewest"
    ) in lines
    assert [line for line in lines if line in ("seed 0", "seed 1", "sentiment alone, seed 1", "category alone, seed 0")]
    assert len([line for line in lines if line.startswith("model of seed ")]) == 2


@pytest.mark.slow
def test_several_seeds_are_written_for_programs(command: Command) -> None:
    _, out, _ = command("train", QUICKSTART, *SMALL, "--seeds", 2, "--alone", "--format", "json")
    written = json.loads(out)
    assert written["models"].keys() == {"0", "1"}
    row = written["metrics"][0]
    assert row.keys() == {
        "task", "metric", "value", "low", "high", "rows", "sd", "seeds",
        "alone", "against_alone", "against_alone_low", "against_alone_high",
    }  # fmt: skip
    assert row["seeds"] == 2
    assert row["alone"] == pytest.approx(row["value"] - row["against_alone"])
    _, out, _ = command("train", QUICKSTART, *SMALL, "--set", "training.seeds=[4]", "--format", "csv")
    (first, *_) = csv.DictReader(io.StringIO(out))
    assert (first["seeds"], first["sd"]) == ("1", "")


@pytest.mark.parametrize(("seeds", "expected"), [(5, "2/2^5 = 0.062"), (1, "2/2^1 = 1")])
def test_few_seeds_are_said_to_show_nothing(seeds: int, expected: str) -> None:
    assert expected in describe_power(seeds)


def test_six_seeds_can_show_something() -> None:
    assert describe_power(6) == "a two-sided sign-flip test over 6 seeds can give a p of 0.031 at the least"


def test_heads_of_several_epochs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    estimates = {"a/accuracy": Estimate(0.5, 0.4, 0.6, 10)}
    epochs = [Epoch(number, {}, {}, 1.0) for number in (1, 2, 3)]
    best = {"a": 1, "b": 2}
    show_result(Result("run", Path("none"), None, None, "test", estimates, epochs, 2, best, {}, []), Format.TABLE)
    assert "test rows, weights of epoch 2 of 3; heads of epoch a 1, b 2" in capsys.readouterr().out


def test_commands_to_copy_are_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    epochs = [Epoch(1, {}, {}, 1.0)]
    show_result(
        Result("a-run", folder, "id", "sqlite:////my store.db", "test", {}, epochs, 1, {"mood": 1}, {}, []),
        Format.TABLE,
    )
    printed = capsys.readouterr().out
    assert f"topwork predict '{folder}' 'a text'" in printed
    assert "topwork ui --uri 'sqlite:////my store.db'" in printed
