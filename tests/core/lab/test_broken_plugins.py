"""Whatever a plugin does wrong, and whenever: the message names it, its file and the line in it."""

import logging
from pathlib import Path

import pytest

from small_experiment import QUICKSTART, SMALL
from topwork.errors import TopworkError
from topwork.experiment.loading import load_experiment
from topwork.lab.result import Result
from topwork.lab.runs import train

pytestmark = pytest.mark.usefixtures("installed")

SOUND = '''
"""A head that does what is expected of it; each comment is where it may fail."""

import typing
from typing import Literal

from matplotlib.figure import Figure
from torch import nn

import topwork


class Linear(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, vectors):
        # forward
        return self.layer(vectors)


def loss(outputs, targets):
    # loss
    return nn.functional.cross_entropy(outputs, targets)


def hits(outputs, targets):
    # metric
    return (outputs.argmax(dim=1) == targets).float()


def draw(outputs, targets, labels):
    # figure
    return Figure()


def tune(outputs, targets):
    # tune
    pass


class OddConfig(topwork.HeadConfig):
    kind: Literal["odd"] = "odd"

    def build(self, width, labels):
        # build
        decode_sound = topwork.decode_logits(labels)

        def decode(outputs):
            # decode
            return decode_sound(outputs)

        return topwork.Head(
            module=Linear(width, len(labels.names)),
            loss=loss,
            decode=decode,
            metrics=[topwork.Metric("hits", hits)],
            figures=[topwork.HeadFigure("drawing", draw)],
            tune=tune,
        )


@topwork.hookimpl
def register_heads(register):
    # register
    register(OddConfig)
'''

#: More rows than those on which a head is tried before anything is encoded.
MANY = 12


def train_with(path: Path, text: str, store: str) -> Result:
    path.write_text(text)
    settings = [*SMALL, f"plugins=[{path}]", "tasks.category.head={kind: odd}", f"tracking.uri={store}"]
    return train(load_experiment(QUICKSTART, settings), output=path.parent / "model")


def failing(place: str, statement: str) -> tuple[str, int]:
    """The text of the plugin with a statement at a place, and the number of its line."""
    lines = SOUND.splitlines()
    (number,) = (number for number, line in enumerate(lines) if line.strip() == f"# {place}")
    lines[number] = lines[number].replace(f"# {place}", statement)
    return "\n".join(lines), number + 1


EARLY = {
    "register": "plugin file {path} is broken: KeyError: 'broke' ({path}:{line})",
    "build": "tasks.category.head: plugin 'odd' of file odd.py, {path}:{line}: KeyError: 'broke'",
    "forward": "tasks.category.head: plugin 'odd' of file odd.py, {path}:{line}: the module failed: KeyError: 'broke'",
    "loss": "tasks.category.head: plugin 'odd' of file odd.py, {path}:{line}: the loss failed: KeyError: 'broke'",
    "decode": "tasks.category.head: plugin 'odd' of file odd.py, {path}:{line}: decode failed: KeyError: 'broke'",
    "metric": "plugin 'odd' of file odd.py, {path}:{line}: metric 'hits' failed: KeyError: 'broke'",
    "figure": "plugin 'odd' of file odd.py, {path}:{line}: figure 'drawing' failed: KeyError: 'broke'",
    "tune": "tasks.category.head: plugin 'odd' of file odd.py, {path}:{line}: tune failed: KeyError: 'broke'",
}


@pytest.mark.parametrize("place", EARLY)
def test_what_fails_at_once_is_told_before_anything_is_trained(place: str, tmp_path: Path, store_uri: str) -> None:
    text, line = failing(place, "raise KeyError('broke')")
    with pytest.raises(TopworkError) as caught:
        train_with(tmp_path / "odd.py", text, store_uri)
    assert caught.value.exit_code == 4
    assert str(caught.value).endswith(EARLY[place].format(path=tmp_path / "odd.py", line=line))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("place", "of"), [("forward", "vectors"), ("loss", "outputs")])
def test_what_fails_in_training_ends_the_run_with_its_line(place: str, of: str, tmp_path: Path, store_uri: str) -> None:
    text, line = failing(place, f"if len({of}) > {MANY}: raise KeyError('broke')")
    with pytest.raises(TopworkError) as caught:
        train_with(tmp_path / "odd.py", text, store_uri)
    assert f"plugin 'odd' of file odd.py, {tmp_path / 'odd.py'}:{line}: " in str(caught.value)
    assert str(caught.value).endswith("KeyError: 'broke'")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["metric", "figure"])
def test_what_fails_in_measuring_and_drawing_costs_that_alone(
    place: str, tmp_path: Path, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, line = failing(place, f"if len(outputs) > {MANY}: raise KeyError('broke')")
    with caplog.at_level(logging.WARNING):
        train_with(tmp_path / "odd.py", text, store_uri)
    assert f"plugin 'odd' of file odd.py, {tmp_path / 'odd.py'}:{line}: {place} " in caplog.text
    assert (tmp_path / "model" / "model.json").exists()


CHANGED = {
    "a hook that is not there": ("def register_heads", "def register_haeds", "PluginValidationError"),
    "a hook without its mark": ("@topwork.hookimpl\n", "", "it registers nothing; is a hook missing its @topwork.hook"),
    "no kind": ('    kind: Literal["odd"] = "odd"\n', "", 'OddConfig needs a field like `kind: Literal["x"] = "x"`'),
    "no build": ("def build(", "def built(", "OddConfig does not implement build"),
    "another base": (
        "(topwork.HeadConfig)",
        "(topwork.PoolingConfig)",
        "a head must be a subclass of HeadConfig",
    ),
    "a kind that is taken": (
        '"odd"] = "odd"',
        '"binary"] = "binary"',
        "head 'binary' is offered more than once: by top",
    ),
    "a newer interface": (
        "import topwork\n",
        "import topwork\nTOPWORK_INTERFACE = 9\n",
        "it was written for interface 9",
    ),
    "a library that is not there": ("import topwork\n", "import topwork\nimport torhc\n", "No module named 'torhc'"),
    "a mistake of Python": (
        "class Linear(nn.Module):",
        "class Linear(nn.Module)",
        "SyntaxError: expected ':' (odd.py, l",
    ),
    "a loss of the wrong shape": (
        "entropy(outputs, targets)",
        "entropy(outputs, targets, reduction='none')",
        "the loss",
    ),
    "outputs of the wrong shape": (
        "return self.layer(vectors)",
        "return self.layer(vectors)[0]",
        "the module must give (2",
    ),
    "something else than a head": ("return topwork.Head(", "return dict(", "build must give a Head, got {"),
    "one label space in place of some": (
        'kind: Literal["odd"] = "odd"',
        'kind: Literal["odd"] = "odd"\n    label_spaces: typing.ClassVar = topwork.Classes',
        "label_spaces of OddConfig must be a tuple of some of topwork.Classes, topwork.LabelSet, ",
    ),
    "a label space as a setting": (
        'kind: Literal["odd"] = "odd"',
        'kind: Literal["odd"] = "odd"\n    label_spaces: tuple = (topwork.Classes,)',
        "label_spaces of OddConfig is no setting: write it as typing.ClassVar",
    ),
    "a reading that is none": (
        'kind: Literal["odd"] = "odd"',
        'kind: Literal["odd"] = "odd"\n    reads: typing.ClassVar = "texts"',
        "reads of OddConfig must be one of pooled, two pooled, words, got 'texts'",
    ),
    "a metric of no numbers": ("dim=1) == targets).float()", "dim=1) == targets)", "metric 'hits'"),
}


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")  # pydantic says so too, where a variable is a field
@pytest.mark.parametrize("fault", CHANGED)
def test_what_breaks_the_interface_is_told_by_the_name_of_the_file(fault: str, tmp_path: Path, store_uri: str) -> None:
    before, after, told = CHANGED[fault]
    assert before in SOUND
    with pytest.raises(TopworkError) as caught:
        train_with(tmp_path / "odd.py", SOUND.replace(before, after, 1), store_uri)
    assert caught.value.exit_code == 4
    assert "odd.py" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.slow
def test_the_sound_one_trains(tmp_path: Path, store_uri: str) -> None:
    assert "category/hits" in train_with(tmp_path / "odd.py", SOUND, store_uri).estimates
