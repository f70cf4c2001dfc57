"""``model.json`` is read, or refused with everything that is wrong in it."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from copy import deepcopy as copy_of
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import topwork
from manifest_helpers import edit, of_sentiment, replace
from small_experiment import QUICKSTART, SMALL
from topwork.engine.model_folder import load_model
from topwork.errors import StorageError, TopworkError


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
    assert load_model(copy).predict(["a text"]) == finished.trained.predict(["a text"])


@pytest.mark.parametrize("format", ["1", True, None, 1.0])
def test_a_format_that_is_no_whole_number_is_shown_as_it_is(copy: Path, format: object) -> None:
    edit(copy, lambda manifest: manifest.update(format=format))
    with pytest.raises(StorageError, match=rf"model\.json has format {format!r}, this topwork"):
        load_model(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format=3, topwork="9.0"))
    with pytest.raises(
        StorageError, match=r"model\.json has format 3, this topwork \(.*\) reads formats 1 to 2"
    ) as caught:
        load_model(copy)
    assert str(caught.value).endswith("use topwork 9.0, which wrote it")


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


@pytest.mark.parametrize(
    "name", ["./plugins/x.py", "plugins/../x.py", "/plugins/x.py", "plugins//x.py", "other/x.py", "x"]
)
def test_a_file_that_is_named_in_another_way_is_refused(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest["files_sha256"].update({name: "0" * 64}))
    with pytest.raises(StorageError, match=r"is not a file in backbone/ or plugins/"):
        load_model(copy)
