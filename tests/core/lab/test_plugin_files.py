"""A run with a plugin file of its own keeps its text, wherever it goes on, is compared or is loaded."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from plugin_files import HEAD, SHIFTED, forget, write_head
from run_helpers import only_run, small
from small_experiment import QUICKSTART, SMALL
from study_helpers import settings
from topwork.cli.show_training import trust
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Epoch, Observer
from topwork.errors import ConfigurationError, PluginError, StorageError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment
from topwork.lab.comparison import compare
from topwork.lab.runs import resume, train
from topwork.lab.study.run_study import study

pytestmark = pytest.mark.slow

Make = Callable[..., Experiment]


@pytest.fixture
def make(tmp_path: Path, store_uri: str) -> Make:
    """The small experiment with a head from a file."""

    def make_experiment(*overrides: str, bias: str = "0.0") -> Experiment:
        path = write_head(tmp_path / "my_head.py", bias)
        return small(f"plugins=[{path}]", SHIFTED, f"tracking.uri={store_uri}", *overrides)

    return make_experiment


class Interrupting(Observer):
    """Presses Ctrl-C at the end of an epoch."""

    def epoch(self, epoch: Epoch) -> None:
        raise KeyboardInterrupt


def test_a_model_has_the_text_and_loads_only_where_it_is_trusted(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(make(), output=tmp_path / "model")
    assert (tmp_path / "model" / "plugins" / "my_head.py").read_text() == HEAD.replace("BIAS", "0.0")
    assert load_model(tmp_path / "model").predict(["a text"])  # its code has run here already
    (tmp_path / "my_head.py").unlink()
    forget(monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        load_model(tmp_path / "model")
    assert str(caught.value) == (
        f"model {trained.folder} has plugin files of its own, code that runs when it is loaded: my_head.py (34 lines); "
        f"read what is in {trained.folder / 'plugins'}, and if you trust it, load it with --trust-plugins, or "
        "trust_plugins=True in Python"
    )
    assert load_model(tmp_path / "model", trust_plugins=True).predict(["a text"])


def test_a_plugin_file_of_a_model_that_was_edited_is_refused(make: Make, tmp_path: Path) -> None:
    train(make(), output=tmp_path / "model")
    write_head(tmp_path / "model" / "plugins" / "my_head.py", "1.0")
    with pytest.raises(StorageError, match=r"plugins/my_head.py is damaged: its sha256 is not the one in model.json"):
        load_model(tmp_path / "model", trust_plugins=True)


def test_a_model_without_its_kind_does_not_have_the_file(make: Make, tmp_path: Path) -> None:
    train(make("tasks.category.head={kind: classification}"), output=tmp_path / "model")
    assert not (tmp_path / "model" / "plugins").exists()


def test_mlflow_has_the_text_and_loads_the_model_only_where_it_is_trusted(
    make: Make, tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(make("tracking.log_model=true"), output=tmp_path / "model")
    run = only_run(store_uri)
    client = MlflowClient(tracking_uri=store_uri)
    text = Path(client.download_artifacts(run.info.run_id, "plugins/my_head.py", str(tmp_path))).read_text()
    assert text == HEAD.replace("BIAS", "0.0")
    assert run.data.tags["plugin.head.shifted"].startswith("my_head.py ")
    assert "has plugin files" not in caplog.text  # MLflow tries the model; its code has run in this process
    (model,) = client.search_logged_models([run.info.experiment_id])
    location = Path(model.artifact_location.removeprefix("file://"))
    assert "my_head" not in (location / "requirements.txt").read_text()
    forget(monkeypatch)
    mlflow.set_tracking_uri(store_uri)
    try:
        with pytest.raises(Exception, match=r"has plugin files of its own"):
            mlflow.pyfunc.load_model(model.model_uri)
        served = mlflow.pyfunc.load_model(model.model_uri, model_config={"trust_plugins": True})
        assert set(served.predict(["a text"])) >= {"sentiment", "category"}
    finally:
        mlflow.set_tracking_uri(None)


def test_runs_with_two_texts_of_one_file_are_compared(
    make: Make, tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        train(make(f"name={name}", bias=bias), output=tmp_path / name).name
        for name, bias in (("before", "0.0"), ("after", "0.5"))
    ]
    forget(monkeypatch)
    with pytest.raises(ConfigurationError, match=rf"run {names[0]} has plugin files of its own, code that runs when"):
        compare(names, uri=store_uri)
    compared = compare(names, uri=store_uri, trust_plugins=True)
    assert compared.settings.keys() == {"plugins"}
    assert "category/accuracy" in compared.differences


def test_a_run_goes_on_with_the_text_that_it_was_begun_with(make: Make, tmp_path: Path) -> None:
    frequent = "training={epochs: 3, batch_size: 16, device: cpu, checkpoint_minutes: 0.000001, patience: null}"
    undisturbed = train(make(frequent, "tracking.enabled=false"), output=tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        train(make(frequent, "tracking.enabled=false"), output=tmp_path / "model", observer=Interrupting())
    with pytest.raises(ConfigurationError, match=r"plugin file my_head.py: sha256 \w+ then, sha256 \w+ now"):
        train(make(frequent, "tracking.enabled=false", bias="1.0"), output=tmp_path / "model")
    result = resume(tmp_path / "runs" / "model")
    weights = [load_model(folder).model.state_dict() for folder in (undisturbed.folder, tmp_path / "model")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert result.warnings == undisturbed.warnings


def test_a_study_trains_with_it_in_its_workers(tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_head(tmp_path / "my_head.py")
    given = settings(f"tracking.uri={store_uri}", f"plugins=[{path}]", SHIFTED, trials=2, workers=1)
    result = study(load_experiment(QUICKSTART, given))
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    best = load_experiment(next(iter(result.files.values())))
    assert best.tasks["category"].head.kind == "shifted"
    write_head(path, "2.0")
    with pytest.raises(ConfigurationError, match=r"my_head.py has changed: its sha256 is \w+, not "):
        load_experiment(next(iter(result.files.values())))
    with pytest.raises(ConfigurationError, match=r"plugin file my_head.py"):
        study(load_experiment(QUICKSTART, given))


def test_an_error_in_it_is_told_with_the_line_of_its_file(make: Make, tmp_path: Path, store_uri: str) -> None:
    path = tmp_path / "my_head.py"
    text = HEAD.replace("self.layer(vectors) + BIAS", "self.leyer(vectors)")
    path.write_text(text)
    line = text.splitlines().index("        return self.leyer(vectors)") + 1
    with pytest.raises(PluginError) as caught:
        train(load_experiment(QUICKSTART, [*SMALL, f"plugins=[{path}]", SHIFTED, "tracking.enabled=false"]))
    assert f"plugin 'shifted' of file my_head.py, {path}:{line}: the module failed: AttributeError" in str(caught.value)


def test_a_model_that_cannot_predict_what_it_was_evaluated_on_says_so(make: Make, tmp_path: Path) -> None:
    text = HEAD.replace("BIAS", "0.0").replace(
        "decode=topwork.decode_logits(labels)",
        "decode=lambda outputs: topwork.Decoded(['unsure' if len(outputs) > 12 else labels.names[0]] * len(outputs), "
        "outputs.softmax(dim=1))",
    )
    experiment = make()
    path = tmp_path / "late.py"
    path.write_text(text)
    late = [f"plugins=[{path}]", SHIFTED, "tracking.enabled=false"]
    result = train(load_experiment(QUICKSTART, [*SMALL, *late]), output=tmp_path / "model")
    assert experiment.plugins
    assert any("the model cannot predict: " in one and "got 'unsure'" in one for one in result.warnings)


def test_the_command_that_is_printed_says_that_it_is_trusted(make: Make, tmp_path: Path) -> None:
    train(make(), output=tmp_path / "own")
    train(make("tasks.category.head={kind: classification}", "plugins=[]"), output=tmp_path / "shipped")
    assert (trust(tmp_path / "own"), trust(tmp_path / "shipped")) == (" --trust-plugins", "")


def test_a_link_is_read_under_its_own_name(tmp_path: Path) -> None:
    write_head(tmp_path / "stored-under-a-digest")
    (tmp_path / "my_head.py").symlink_to(tmp_path / "stored-under-a-digest")
    (file,) = small(f"plugins=[{tmp_path / 'my_head.py'}]", SHIFTED).plugins
    assert file.path == tmp_path / "my_head.py"
