"""A trained model's folder is read back to the last bit, or refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from manifest_helpers import edit, of_sentiment, replace
from topwork.engine import model_folder
from topwork.engine.model_folder import check_saved_model, load_model, save_model
from topwork.errors import PluginError, StorageError
from topwork.registry import discover

TEXTS = ["a good novel", "a broken saw, really", "an album", "good"]


@pytest.fixture(scope="module")
def loaded(finished: Any) -> Any:
    return load_model(finished.folder)


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
    assert manifest["format"] == 2
    assert {task: (space["kind"], space["names"]) for task, space in manifest["labels"].items()} == {
        "sentiment": ("classes", ["neg", "pos"]),
        "category": ("classes", ["books", "music", "tools"]),
    }
    assert sum(manifest["labels"]["category"]["counts"]) == 36
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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_part_of_the_backbone_that_was_edited_is_refused(copy: Path, name: str) -> None:
    path = copy / "backbone" / name
    replace(path, path.read_text() + " ")
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert str(caught.value) == (f"{path} is damaged: its sha256 is not the one in model.json; copy the folder again")


def test_a_model_of_an_earlier_version_without_these_digests_is_read(copy: Path, finished: Any) -> None:
    edit(copy, lambda manifest: manifest.pop("files_sha256"))
    assert load_model(copy).predict(TEXTS) == finished.trained.predict(TEXTS)


def test_a_model_of_the_first_format_names_its_classes_alone(copy: Path, finished: Any) -> None:
    def as_before(manifest: dict[str, Any]) -> None:
        manifest["classes"] = {task: space["names"] for task, space in manifest.pop("labels").items()}
        manifest["format"] = 1

    edit(copy, as_before)
    assert load_model(copy).predict(TEXTS) == finished.trained.predict(TEXTS)


def test_a_label_space_that_a_head_does_not_take_is_refused(copy: Path) -> None:
    numbers = {"kind": "numbers", "names": ["x"], "mean": [0.0], "scale": [1.0]}
    edit(copy, lambda manifest: manifest["labels"].update(sentiment=numbers))
    with pytest.raises(
        StorageError, match=r"model\.json: task sentiment: head binary takes one of several classes, got numbers$"
    ):
        load_model(copy)


def test_classes_that_a_head_does_not_take_are_refused(copy: Path) -> None:
    edit(copy, lambda manifest: of_sentiment(manifest).update(names=["a", "b", "c"], counts=[]))
    with pytest.raises(StorageError, match=r"model\.json: task sentiment: a binary head needs 2 classes, but "):
        load_model(copy)


def test_a_kind_that_two_packages_offer_is_no_reason_to_install_one(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = discover()
    registry.heads.conflicts["binary"] = "acme and topwork"
    del registry.heads.plugins["binary"]
    monkeypatch.setattr(model_folder, "discover", lambda files: registry)
    with pytest.raises(PluginError) as caught:
        load_model(finished.folder)
    told = "cannot be loaded: head 'binary' is offered more than once: by acme and topwork; remove one of them"
    assert str(caught.value) == f"{finished.folder} {told}"


class Shared(nn.Module):
    """Weights of which two are views of one tensor, two are one tensor, and one is a part of another."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(4, 3)
        self.upper, self.lower = nn.Parameter(whole[:2]), nn.Parameter(whole[2:])
        self.tied = self.again = nn.Parameter(torch.randn(3))
        self.register_buffer("column", torch.randn(3, 3)[:, 1])


def test_weights_that_share_memory_are_saved_and_loaded() -> None:
    saved, loaded = Shared(), Shared()
    tensors = model_folder._distinct_tensors(saved)
    read = safetensors.torch.load(safetensors.torch.save(tensors))
    assert set(read) == {"upper", "lower", "tied", "column"}
    model_folder._load_tensors(loaded, read)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in saved.state_dict().items())
    with pytest.raises(RuntimeError, match="missing: upper; unknown: other"):
        model_folder._load_tensors(loaded, {"other": read["tied"], **{n: t for n, t in read.items() if n != "upper"}})


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
    edit(copy, lambda manifest: manifest["labels"]["category"].update(names=["books", "music"], counts=[]))
    with pytest.raises(StorageError, match=r"does not fit the model that model\.json describes"):
        load_model(copy)


@pytest.mark.slow
def test_a_model_that_was_saved_gives_the_same_when_it_is_loaded(finished: Any) -> None:
    check_saved_model(finished.folder, finished.trained, TEXTS)


@pytest.mark.slow
def test_a_model_that_gives_something_else_when_it_is_loaded_is_named(finished: Any, loaded: Any) -> None:
    linear = next(loaded.model.heads["category"].children())
    before = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight.add_(1e-3)
    with pytest.raises(
        PluginError, match=r"not give the outputs of task category .*; head 'classification': it depends"
    ):
        check_saved_model(finished.folder, loaded, TEXTS)
    with torch.no_grad():
        linear.weight.copy_(before)


def test_a_folder_that_cannot_be_loaded_again_is_told_as_such(finished: Any, copy: Path) -> None:
    (copy / "backbone" / "config.json").unlink()
    with pytest.raises(
        PluginError, match=r"was saved, but cannot be loaded: .*config\.json cannot be read: No such file"
    ):
        check_saved_model(copy, finished.trained, TEXTS)
