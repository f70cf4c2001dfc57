"""A trained model's folder is read back to the last bit, or refused with what is wrong."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy as copy_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import topwork
from small_experiment import QUICKSTART, SMALL
from topwork.engine import model_folder
from topwork.engine.model_folder import check_saved_model, load_model, save_model
from topwork.errors import PluginError, StorageError, TopworkError
from topwork.registry import discover

TEXTS = ["a good novel", "a broken saw, really", "an album", "good"]


@pytest.fixture(scope="module")
def loaded(finished: Any) -> Any:
    return load_model(finished.folder)


@pytest.fixture
def copy(finished: Any, tmp_path: Path) -> Path:
    """A copy of the model's folder; its files are links, so replace them and never write into them."""
    return Path(shutil.copytree(finished.folder, tmp_path / "model", copy_function=os.link))


def of_sentiment(manifest: dict[str, Any]) -> dict[str, Any]:
    """The record of a task's label space."""
    record: dict[str, Any] = manifest["labels"]["sentiment"]
    return record


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replace model.json by a changed one, without its sha256, as earlier versions wrote it."""
    manifest = json.loads((folder / "model.json").read_text())
    del manifest["sha256"]
    change(manifest)
    replace(folder / "model.json", json.dumps(manifest))


def replace(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content)


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


def test_a_manifest_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"a":' * 100_000)
    with pytest.raises(StorageError, match=r"model\.json cannot be read: ") as caught:
        load_model(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("plugins"), "plugins: this key is required"),
        (
            lambda m: m.update(weights_sha256="x"),
            "weights_sha256: string should match pattern '^[0-9a-f]{64}$', got 'x'",
        ),
        (lambda m: m.update(weights_sha256=1), "weights_sha256: input should be a valid string, got 1"),
        (lambda m: m.update(labels=[]), "labels: input should be an object, got []"),
        (lambda m: m.update(labels={}), "labels: dictionary should have at least 1 item"),
        (lambda m: of_sentiment(m).update(names=[]), "labels.sentiment: there must be names, each once"),
        (lambda m: of_sentiment(m).update(names=["a", "a"]), "labels.sentiment: there must be names, each once"),
        (
            lambda m: of_sentiment(m).update(names=[1, 2]),
            "labels.sentiment.names.0: input should be a valid string, got 1",
        ),
        (
            lambda m: m["labels"].pop("sentiment"),
            ": the tasks are sentiment, category, but there are labels of category",
        ),
        (lambda m: m.update(plugins=[{}]), "plugins.0.interface: this key is required"),
        (lambda m: m.update(digests=[]), "digests: input should be an object, got []"),
        (lambda m: m.update(experiment=3), "experiment: input should be an object, got 3"),
        (lambda m: m.update(experiment={}), "experiment: data must be a mapping of sources"),
        (lambda m: m["experiment"].update(tasks=[1]), "experiment: tasks must be a mapping of tasks"),
        (lambda m: m["experiment"].update(backbone="minilm"), "experiment: backbone.kind must be text"),
        (
            lambda m: m["experiment"]["tasks"].update(sentiment={}),
            "experiment: tasks.sentiment.label, tasks.sentiment.head.kind must be text",
        ),
        (
            lambda m: m.update(files_sha256={"backbone/../../x": "0" * 64}),
            "files_sha256.backbone/../../x.[key]: 'backbone/../../x' is not a file in backbone/",
        ),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(
    copy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert str(caught.value).splitlines()[0].startswith(f"{copy / 'model.json'} is damaged: {message}")


def test_many_faults_of_a_manifest_make_no_long_message(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(plugins=[{"interface": "x" * 10_000}] * 1000))
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert len(str(caught.value).splitlines()) == 11
    assert str(caught.value).splitlines()[-1] == f"{copy / 'model.json'} is damaged: and 2990 more"


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: of_sentiment(manifest)["names"].reverse(),
        lambda manifest: manifest["experiment"]["backbone"].update(max_length=3),
        lambda manifest: manifest.update(digests={}),
    ],
    ids=["classes", "settings", "digests"],
)
def test_a_manifest_that_was_edited_is_refused(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((copy / "model.json").read_text())
    change(manifest)
    replace(copy / "model.json", json.dumps(manifest))
    with pytest.raises(StorageError) as caught:
        load_model(copy)
    assert str(caught.value) == (
        f"{copy / 'model.json'} is damaged: its sha256 is not the one that it names; copy the folder again"
    )


def test_a_manifest_that_is_laid_out_otherwise_is_the_same(copy: Path, finished: Any) -> None:
    manifest = json.loads((copy / "model.json").read_text())
    replace(copy / "model.json", json.dumps(dict(reversed(manifest.items())), ensure_ascii=False))
    assert load_model(copy).predict(TEXTS) == finished.trained.predict(TEXTS)


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


@pytest.mark.parametrize("format", ["1", True, None, 1.0])
def test_a_format_that_is_no_whole_number_is_shown_as_it_is(copy: Path, format: object) -> None:
    edit(copy, lambda manifest: manifest.update(format=format))
    with pytest.raises(StorageError, match=rf"model\.json has format {format!r}, this topwork"):
        load_model(copy)


def test_a_kind_that_two_packages_offer_is_no_reason_to_install_one(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = discover()
    registry.heads.conflicts["binary"] = "acme and topwork"
    del registry.heads.plugins["binary"]
    monkeypatch.setattr(model_folder, "discover", lambda: registry)
    with pytest.raises(PluginError) as caught:
        load_model(finished.folder)
    told = "cannot be loaded: head 'binary' is offered by several packages: acme and topwork; uninstall one of them"
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


def test_a_newer_format_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format=3, topwork="9.0"))
    with pytest.raises(
        StorageError, match=r"model\.json has format 3, this topwork \(.*\) reads formats 1 to 2"
    ) as caught:
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
    edit(copy, lambda manifest: manifest["labels"]["category"].update(names=["books", "music"], counts=[]))
    with pytest.raises(StorageError, match=r"does not fit the model that model\.json describes"):
        load_model(copy)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def paths_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of everything in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


@st.composite
def edited(draw: st.DrawFn, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest in which some places were replaced, removed or added to."""
    changed = copy_of(manifest)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(list(paths_in(changed)) or [("format",)]))
        at = changed
        for key in path:
            at = at[key]
        if draw(st.booleans()) or isinstance(at, list):
            at[last] = draw(JSON_VALUES)
        else:
            del at[last]
    return changed


@pytest.fixture(scope="module")
def tiny_model(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes milliseconds to load."""
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    topwork.train(topwork.load_experiment(QUICKSTART, [*SMALL, "tracking.enabled=false"]), output=folder)
    return folder


@pytest.mark.slow
def test_a_manifest_edited_in_any_way_is_read_or_refused_with_its_place(tiny_model: Path) -> None:
    path = tiny_model / "model.json"
    whole = path.read_bytes()
    manifest = json.loads(whole)
    del manifest["sha256"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def load_edited(data: st.DataObject) -> None:
        content = json.dumps(data.draw(edited(manifest)))
        path.write_text(content[: data.draw(st.sampled_from([len(content), len(content), len(content) // 2]))])
        started = time.process_time()
        try:
            load_model(tiny_model)
        except TopworkError as error:
            assert str(tiny_model) in str(error)
            assert len(str(error)) < 5000
        assert time.process_time() - started < 5

    load_edited()
    path.write_bytes(whole)
    assert load_model(tiny_model).predict(["a text"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kB


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
