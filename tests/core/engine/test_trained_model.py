"""A trained model is a folder that says what it is and gives back what was trained."""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topwork.engine.trained_model import load_model, save_model
from topwork.errors import DataError, PluginError, StorageError
from topwork.registry import discover

TEXTS = ["a good novel", "a broken saw, really", "an album", "good"]


@pytest.fixture(scope="module")
def loaded(finished: Any) -> Any:
    return load_model(finished.folder)


@pytest.fixture
def copy(finished: Any, tmp_path: Path) -> Path:
    """A copy of the model's folder; its files are links, so replace them and never write into them."""
    return Path(shutil.copytree(finished.folder, tmp_path / "model", copy_function=os.link))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Replace model.json by a changed one."""
    path = folder / "model.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.unlink()
    path.write_text(json.dumps(manifest))


def test_a_loaded_model_predicts_the_same_to_the_last_bit(finished: Any, loaded: Any) -> None:
    assert loaded.predict(TEXTS) == finished.trained.predict(TEXTS)


def test_a_loaded_model_encodes_the_same_to_the_last_bit(finished: Any, loaded: Any) -> None:
    assert np.array_equal(loaded.encode(TEXTS), finished.trained.encode(TEXTS))


def test_a_model_that_was_loaded_and_saved_again_has_the_same_weights(
    loaded: Any, finished: Any, tmp_path: Path
) -> None:
    save_model(tmp_path / "again", loaded, discover())
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (finished.folder, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_the_folder_holds_nothing_else_and_nothing_pickled(finished: Any) -> None:
    files = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    assert files == {"model.json", "weights.safetensors", "backbone/config.json", "backbone/tokenizer.json"}
    starts = {name: (finished.folder / name).read_bytes()[:2] for name in files}
    assert not any(start.startswith((b"\x80", b"PK")) for start in starts.values())  # pickle, and torch's zip of it


def test_the_folder_says_what_it_is_and_needs(finished: Any) -> None:
    manifest = json.loads((finished.folder / "model.json").read_text())
    assert manifest["format"] == 1
    assert manifest["classes"] == {"sentiment": ["neg", "pos"], "category": ["books", "music", "tools"]}
    assert manifest["experiment"] == finished.trained.experiment
    assert [(needed["interface"], needed["kind"], needed["package"]) for needed in manifest["plugins"]] == [
        ("backbone", "minilm", "topwork"),
        ("pooling", "cls", "topwork"),
        ("head", "binary", "topwork"),
        ("head", "classification", "topwork"),
    ]


def test_a_prediction_gives_label_and_probabilities_of_each_task(loaded: Any) -> None:
    for prediction in loaded.predict(TEXTS):
        assert list(prediction) == ["sentiment", "category"]
        for task, said in prediction.items():
            assert list(said.probabilities) == list(loaded.tasks[task].names)
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


def test_truncated_texts_are_counted_in_a_warning(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded.predict(["short", "long " * 40, "longer " * 400])
    assert caplog.messages == ["2 of 3 texts are longer than the model reads and were truncated"]


def test_texts_that_fit_give_no_warning(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded.predict(TEXTS)
    assert caplog.messages == []


def test_evaluating_reproduces_the_figures_of_training(finished: Any, loaded: Any) -> None:
    figures, which = loaded.evaluate()
    assert which == "test rows of the experiment"
    assert figures == finished.figures


def test_evaluating_another_file_uses_all_its_rows(loaded: Any, write: Callable[..., Path]) -> None:
    labels = [loaded.predict([text])[0] for text in TEXTS]
    rows = [
        f'"{text}",{said["sentiment"].label},{said["category"].label}' for text, said in zip(TEXTS, labels, strict=True)
    ]
    file = write("more.csv", "\n".join(["text,sentiment,category", *rows]))
    figures, which = loaded.evaluate(file)
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


def test_evaluating_a_file_that_is_not_there_is_refused(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        loaded.evaluate(tmp_path / "nothing.csv")


def test_an_existing_folder_is_never_overwritten(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="taken exists already; nothing is overwritten"):
        save_model(tmp_path / "taken", finished.trained, discover())
    assert list((tmp_path / "taken").iterdir()) == []


@pytest.mark.parametrize("inside", ["", "nowhere"])
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_model(tmp_path / inside)
    assert str(caught.value) == f"{tmp_path / inside} is not a trained model: it holds no model.json"


@pytest.mark.parametrize("content", ["", "not json", "[1, 2]", '"text"'])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(StorageError, match=r"model\.json cannot be read"):
        load_model(tmp_path)


def test_a_newer_format_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format=2, topwork="9.0"))
    with pytest.raises(StorageError, match=r"model\.json has format 2, this topwork \(.*\) reads format 1") as caught:
        load_model(copy)
    assert str(caught.value).endswith("use topwork 9.0, which wrote it")


@pytest.mark.parametrize("part", ["backbone", "pooling", "head"])
def test_a_missing_plugin_is_named_with_its_package(copy: Path, part: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        experiment = manifest["experiment"]
        settings = experiment["tasks"]["sentiment"]["head"] if part == "head" else experiment[part]
        settings["kind"] = "gone"
        manifest["plugins"].append({"interface": part, "kind": "gone", "package": "topwork-gone", "version": "1.2"})

    edit(copy, change)
    with pytest.raises(PluginError) as caught:
        load_model(copy)
    message = str(caught.value)
    assert message.startswith(f"{copy} needs {part} 'gone' of package topwork-gone 1.2: no {part} of kind 'gone' is")
    assert "install it with: pip install 'topwork-gone==1.2'" in message


def test_settings_that_a_plugin_no_longer_takes_are_reported_with_its_version(copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["experiment"]["backbone"]["dropped_setting"] = 1

    edit(copy, change)
    with pytest.raises(PluginError, match="needs backbone 'minilm' of package topwork ") as caught:
        load_model(copy)
    assert "dropped_setting" in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("keep", [slice(None, -1), slice(None, 100), slice(0)])
def test_damaged_weights_are_refused(copy: Path, keep: slice) -> None:
    path = copy / "weights.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[keep])
    with pytest.raises(
        StorageError, match=r"weights\.safetensors is damaged: its sha256 is not the one in model\.json"
    ):
        load_model(copy)


def test_missing_weights_are_refused(copy: Path) -> None:
    (copy / "weights.safetensors").unlink()
    with pytest.raises(StorageError, match=r"weights\.safetensors"):
        load_model(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_part_of_the_backbone_is_refused(copy: Path, name: str) -> None:
    (copy / "backbone" / name).unlink()
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert str(copy) in str(caught.value)
    assert name in str(caught.value)


def test_weights_of_another_model_are_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["classes"].update(category=["books", "music"]))
    with pytest.raises(StorageError, match=r"does not fit the model that model\.json describes"):
        load_model(copy)


def test_a_loaded_model_trains_nothing(loaded: Any) -> None:
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())


def test_a_training_file_that_has_changed_is_not_taken_for_the_same(finished: Any, tmp_path: Path) -> None:
    copy = tmp_path / "reviews.csv"
    path = Path(next(iter(finished.trained.digests)))
    copy.write_text(path.read_text().replace("books", "zbooks"))
    experiment = json.loads(json.dumps(finished.trained.experiment).replace(str(path), str(copy)))
    moved = dataclasses.replace(finished.trained, experiment=experiment)
    with pytest.raises(DataError, match=r"reviews\.csv is not the file of the training any more"):
        moved.evaluate()


def test_one_text_is_not_taken_for_a_list(loaded: Any) -> None:
    with pytest.raises(DataError, match="give a list of texts, not one text"):
        loaded.predict("abc")


def test_half_a_character_is_refused(loaded: Any) -> None:
    with pytest.raises(DataError, match="1 of 2 texts are not valid Unicode: number 2"):
        loaded.predict(["fine", "\ud800"])
