"""A trained model's folder is read back to the last bit, or refused with what is wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topwork.engine.model_folder import load_model, save_model
from topwork.errors import PluginError, StorageError
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


def test_a_manifest_that_lacks_something_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: [manifest.pop(name) for name in ("plugins", "classes")])
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert str(caught.value) == f"{copy / 'model.json'} is damaged: it lacks classes, plugins; copy the folder again"


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


@pytest.mark.slow
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
