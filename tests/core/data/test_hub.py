"""Data sets of the Hub are read with their own library. Here they lie in folders, which it reads in the same way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest

from topwork.data.dataset import Dataset, load_dataset
from topwork.data.hub import _as_parquet, read_from_hub
from topwork.engine.model_folder import load_model
from topwork.errors import DataError
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.experiment.schema import Experiment
from topwork.experiment.source import HubDataset, Source, Split
from topwork.interfaces.labels import Classes
from topwork.lab.runs import train
from topwork.registry import discover


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of two splits, by a name as in the Hub."""
    folder = tmp_path / "acme" / "films"
    folder.mkdir(parents=True)
    for split, moods in (("train", "good bad good bad good"), ("test", "bad good")):
        rows = [{"text": f"{mood} {number}", "mood": mood} for number, mood in enumerate(moods.split())]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return "acme/films"


def load(hub: HubDataset, **options: Any) -> Dataset:
    tasks = {"mood": LabelColumns(("mood",), LabelFormat(), spaces=(Classes,))}
    return load_dataset({"rows": Source(hub=hub, **options)}, {"rows": tasks})


def test_splits_are_used_as_the_source_says(films: str) -> None:
    dataset = load(HubDataset(name=films, train="train", test="test"), split=Split(validation=0.2))
    assert {split: len(rows.texts) for split, rows in dataset.splits.items()} == {
        "train": 4,
        "validation": 1,
        "test": 2,
    }
    assert dataset.splits["test"].texts == ["bad 0", "good 1"]
    assert dataset.labels["mood"].names == ("bad", "good")
    assert [str(path) for path in dataset.digests] == ["hub:acme/films/train.parquet", "hub:acme/films/test.parquet"]


def test_one_split_is_divided(films: str) -> None:
    dataset = load(HubDataset(name=films, all="train"), split=Split(test=0.2))
    assert dataset.splits["test"].texts == ["good 4"]


def test_the_same_rows_have_the_same_digest(films: str) -> None:
    hub = HubDataset(name=films, train="train")
    assert load(hub).digest == load(hub).digest
    assert load(hub).digest != load(HubDataset(name=films, train="test")).digest


def test_rows_that_are_wrong_are_told_with_their_place(films: str) -> None:
    for split in ("train", "test"):
        (Path(films) / f"{split}.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match=r"^hub:acme/films/train.parquet:1: mood: there is no such column, only text"):
        load(HubDataset(name=films, train="train"))


def test_splits_that_do_not_fit_together_are_told_with_the_reason(films: str) -> None:
    (Path(films) / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(
        DataError, match=r"^hub:acme/films: An error occurred while generating the dataset: Couldn't cast$"
    ):
        load(HubDataset(name=films, train="train"))


def test_an_unknown_split_is_told_with_those_there_are(films: str) -> None:
    with pytest.raises(DataError, match=r"^hub:acme/films: Unknown split \"dev\". Should be one of"):
        load(HubDataset(name=films, train="dev"))


@pytest.mark.usefixtures("installed")
def test_a_model_that_was_trained_on_it_is_measured_on_a_file(films: str, tmp_path: Path) -> None:
    raw = {
        "name": "hub",
        "data": {"rows": {"hub": {"name": films, "train": "train", "test": "test"}}},
        "backbone": {"kind": "tiny"},
        "freeze": {"kind": "all"},
        "tasks": {"mood": {"label": "mood"}},
        "training": {"epochs": 1, "device": "cpu"},
        "tracking": {"enabled": False},
    }
    result = train(Experiment.model_validate(raw, context={"registry": discover()}), output=tmp_path / "model")
    assert result.estimates["mood/accuracy"].rows == 2
    (tmp_path / "more.csv").write_text("text,mood\na,good\nb,bad\nc,bad\n")
    figures, which = load_model(tmp_path / "model").evaluate(tmp_path / "more.csv")
    assert (figures["mood/accuracy"].rows, which) == (3, f"all rows of {tmp_path / 'more.csv'}")


def test_names_of_classes_stand_for_their_numbers() -> None:
    mood = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": mood, "tags": datasets.List(mood), "stars": datasets.Value("int64")}
    )
    rows = {"text": ["a", "b", "c"], "mood": [1, -1, 0], "tags": [[0, 1], None, []], "stars": [3, 4, 5]}
    with _as_parquet(datasets.Dataset.from_dict(rows, features))() as stream:
        table = pyarrow.parquet.read_table(stream)
    assert table.to_pydict() == {
        "text": ["a", "b", "c"],
        "mood": ["good", None, "bad"],
        "tags": [["bad", "good"], None, []],
        "stars": [3, 4, 5],
    }


def test_without_the_hub_it_is_said_at_once_how_to_go_on() -> None:
    with pytest.raises(DataError) as caught:
        read_from_hub(HubDataset(name="acme/none", all="train"), "train")
    assert str(caught.value).startswith("hub:acme/none: Couldn't reach 'acme/none' on the Hub")
    assert str(caught.value).endswith(
        "where the Hub cannot be reached, set HF_HUB_OFFLINE=1 to use a copy that was loaded before, or write a file "
        "elsewhere with datasets.load_dataset('acme/none', split='train').to_parquet('train.parquet') and name it in "
        "place of hub"
    )


ASK = """
import time
from topwork.data.hub import read_from_hub
from topwork.engine.model_folder import load_model
from topwork.errors import DataError
from topwork.experiment.source import HubDataset
started = time.monotonic()
try:
    read_from_hub(HubDataset(name="acme/none", all="train"), "train")
except DataError as error:
    print(error)
print("seconds", round(time.monotonic() - started))
"""


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_not_asked_again_and_again() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("hub:acme/none: ")
    assert "set HF_HUB_OFFLINE=1" in ran.stdout
    assert int(ran.stdout.split()[-1]) < 20
    assert "Retrying" not in ran.stderr


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library datasets; install it with: pip install 'topwork\[hub\]'$"):
        read_from_hub(HubDataset(name="acme/none", all="train"), "train")
