"""Whatever is wrong with an experiment file is said with its place, all at once."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import field_validator
from pydantic_core import PydanticCustomError

import topwork
from topwork.registry import Plugin, Registry, discover

Write = Callable[..., Path]

MINIMAL = """\
name: small
data:
  reviews: {path: reviews.csv}
tasks:
  mood: {label: mood}
"""

FULL = (
    MINIMAL
    + """\
freeze:
  kind: all_except
  patterns: [layer.5.ffn, layer.5.output_layer_norm]
optimizer: {kind: heads_and_backbone}
"""
).replace("label: mood", "label: mood, head: {kind: binary}")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture
def load(write: Write, registry: Registry) -> Callable[..., topwork.Experiment]:
    """Load an experiment from its text, with overrides."""

    def load_text(text: str, *overrides: str) -> topwork.Experiment:
        write("e.yaml", text)
        return topwork.load_experiment("e.yaml", overrides, registry=registry)

    return load_text


Load = Callable[..., topwork.Experiment]


@pytest.fixture
def errors(load: Load) -> Callable[..., list[str]]:
    """The lines of the error that loading an experiment ends with."""

    def load_errors(text: str, *overrides: str) -> list[str]:
        with pytest.raises(topwork.ConfigurationError) as caught:
            load(text, *overrides)
        return str(caught.value).splitlines()

    return load_errors


Errors = Callable[..., list[str]]


def test_a_minimal_file_is_an_experiment(load: Load) -> None:
    experiment = load(MINIMAL)
    assert experiment.name == "small"
    assert experiment.tasks["mood"].label == "mood"


@pytest.mark.parametrize("name", ["quickstart", "reference", "reference_minilm"])
def test_the_shipped_experiments_load(name: str, pytestconfig: pytest.Config) -> None:
    experiment = topwork.load_experiment(pytestconfig.rootpath / "experiments" / f"{name}.yaml")
    assert experiment.tasks.keys() == {"sentiment", "category"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("trainig: {}", "e.yaml:6:1: trainig: unknown key; did you mean training?"),
        ("training:\n  epochs: 1\n  pateince: 2", "e.yaml:8:3: training.pateince: unknown key; did you mean patience?"),
        (
            "optimizer: {kind: uniform, weigth_decay: 1}",
            "e.yaml:6:28: optimizer.weigth_decay: unknown key; did you mean weight_decay?",
        ),
        ("tracking: {url: x}", "e.yaml:6:12: tracking.url: unknown key; did you mean uri?"),
        (
            "study: {objective: loss, search: {a.b: {lwo: 1, high: 2}}}",
            "e.yaml:6:41: study.search.a.b.lwo: unknown key; did you mean low?",
        ),
        ("training: {qqqqqq: 1}", "e.yaml:6:12: training.qqqqqq: unknown key"),
    ],
    ids=["section", "setting", "plugin setting", "flow style", "study", "nothing near"],
)
def test_an_unknown_key_is_placed_and_the_nearest_known_one_named(errors: Errors, text: str, error: str) -> None:
    assert errors(MINIMAL + text) == [error]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("path: reviews.csv", "path: reviews.csv, txet: a", "3:32: data.reviews.txet: unknown key; did you mean text?"),
        (
            "path: reviews.csv",
            "path: reviews.csv, split: {tset: 0.1}",
            "3:40: data.reviews.split.tset: unknown key; did you mean test?",
        ),
        (
            "label: mood",
            "label: mood, los_weight: 2",
            "5:23: tasks.mood.los_weight: unknown key; did you mean loss_weight?",
        ),
        (
            "label: mood",
            "label: mood, head: {kind: binary, hiden: [3]}",
            "5:44: tasks.mood.head.hiden: unknown key; did you mean hidden?",
        ),
    ],
    ids=["source", "split", "task", "head"],
)
def test_an_unknown_key_deep_down_is_placed(errors: Errors, old: str, new: str, error: str) -> None:
    assert errors(MINIMAL.replace(old, new)) == [f"e.yaml:{error}"]


@pytest.mark.parametrize("name", ["head", "backbone"])
def test_keys_of_a_task_that_is_called_like_a_plugin_field_get_a_suggestion(errors: Errors, name: str) -> None:
    text = MINIMAL.replace("mood: {label: mood}", f"{name}: {{label: mood, sorce: reviews}}")
    assert errors(text) == [f"e.yaml:5:{len(name) + 19}: tasks.{name}.sorce: unknown key; did you mean source?"]


def test_all_errors_are_reported_at_once(errors: Errors) -> None:
    text = """\
name: small
data:
  reviews:
    pth: reviews.csv
    path: reviews.csv
tasks:
  mood: {label: mood, head: {kind: binary, activation: sine}}
training:
  epochs: 0
  batch_sise: 3
"""
    assert sorted(errors(text)) == sorted(
        [
            "e.yaml:4:5: data.reviews.pth: unknown key; did you mean path?",
            "e.yaml:7:44: tasks.mood.head.activation: input should be 'relu', 'gelu' or 'tanh', got 'sine'",
            "e.yaml:9:3: training.epochs: input should be greater than or equal to 1, got 0",
            "e.yaml:10:3: training.batch_sise: unknown key; did you mean batch_size?",
        ]
    )


def test_missing_keys_are_named_where_they_belong(errors: Errors) -> None:
    assert errors("name: small\ndata:\n  reviews: {path: a.csv}\ntasks:\n  mood: {source: reviews}\n") == [
        "e.yaml:5:3: tasks.mood.label: this key is required"
    ]
    assert errors("{}") == [f"e.yaml:1:1: {key}: this key is required" for key in ("name", "data", "tasks")]


class OddConfig(topwork.HeadConfig):
    """A head that refuses its setting without a word."""

    kind: Literal["odd"] = "odd"
    error: str = ""

    @field_validator("error")
    @classmethod
    def _refuse(cls, error: str) -> str:
        raise PydanticCustomError("too_odd", "") if error == "of pydantic" else ValueError

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("error", "words"), [("of Python", "ValueError"), ("of pydantic", "too_odd, got 'of pydantic'")]
)
def test_a_plugin_that_refuses_a_setting_without_a_word_is_quoted_by_what_it_raises(
    write: Write, error: str, words: str
) -> None:
    registry = discover()
    registry.heads.add(Plugin("head", "odd", OddConfig, "odd-heads", "0.1"))
    path = write("e.yaml", MINIMAL.replace("label: mood", f"label: mood, head: {{kind: odd, error: {error}}}"))
    with pytest.raises(topwork.ConfigurationError) as caught:
        topwork.load_experiment(path, registry=registry)
    assert str(caught.value) == f"{path}:5:41: tasks.mood.head.error: {words}"


def test_a_list_item_is_placed(errors: Errors) -> None:
    text = MINIMAL + "freeze:\n  kind: all_except\n  patterns:\n    - layer.5\n    - [layer.4]\n"
    assert errors(text) == ["e.yaml:10:7: freeze.patterns.1: input should be a valid string, got ['layer.4']"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text\n", "3\n"], ids=repr)
def test_a_file_that_is_no_mapping_says_how_to_start(errors: Errors, text: str) -> None:
    assert errors(text) == ["e.yaml: an experiment is a mapping of sections; start with `name: my-experiment`"]


def test_a_duplicate_key_is_placed(errors: Errors) -> None:
    text = MINIMAL + "training:\n  epochs: 3\n  seed: 1\n  epochs: 4\n"
    assert errors(text) == ["e.yaml:9:3: key epochs occurs twice, first in line 7; keep one"]


@pytest.mark.parametrize(
    ("text", "place"),
    [("name: [small\ndata: 3\n", "2:5"), ("name: *nobody\n", "1:7"), ("name: !env HOME\n", "1:7")],
    ids=["open bracket", "unknown anchor", "tag"],
)
def test_what_is_not_plain_yaml_is_placed(errors: Errors, text: str, place: str) -> None:
    (error,) = errors(text)
    assert error.startswith(f"e.yaml:{place}: not valid YAML: ")


def test_a_missing_file_is_named(registry: Registry) -> None:
    with pytest.raises(topwork.ConfigurationError, match=r"^nowhere\.yaml: .*No such file or directory"):
        topwork.load_experiment("nowhere.yaml", registry=registry)


def test_a_file_that_is_not_utf8_is_refused(write: Write, registry: Registry) -> None:
    path = write("e.yaml", MINIMAL.replace("small", "größer").encode("latin-1"))
    with pytest.raises(topwork.ConfigurationError) as caught:
        topwork.load_experiment(path, registry=registry)
    rule = "an experiment file must be readable UTF-8 text"
    assert str(caught.value) == f"{path}:1:9: {rule}, but byte 0xf6 is not"


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b.yaml", "."])
def test_what_is_no_experiment_file_is_refused_at_once(path: str, registry: Registry) -> None:
    with pytest.raises(topwork.ConfigurationError, match=r"an experiment file m|is not a path"):
        topwork.load_experiment(path, registry=registry)


def test_a_byte_order_mark_does_no_harm(load: Load) -> None:
    assert load("\ufeff" + MINIMAL).name == "small"


@pytest.mark.parametrize(
    ("section", "place", "words"),
    [
        (
            "pooling: {kind: meen}",
            "6:1: pooling",
            ["no pooling of kind 'meen'", "cls, concat_layers, last, layer_mix, max, mean", "did you mean mean?"],
        ),
        ("backbone: {kind: 5}", "6:1: backbone", ["no backbone of kind 5", "distilbert, minilm"]),
        ("freeze: {kind: [all]}", "6:1: freeze", ["no freeze strategy of kind ['all']"]),
    ],
    ids=["near", "a number", "a list"],
)
def test_a_kind_that_is_not_installed_is_placed(errors: Errors, section: str, place: str, words: list[str]) -> None:
    (error,) = errors(MINIMAL + section)
    assert error.startswith(f"e.yaml:{place}: ")
    assert [word for word in words if word not in error] == []


def test_a_plugin_written_as_a_word_is_explained(errors: Errors) -> None:
    assert errors(MINIMAL + "pooling: mean") == [
        "e.yaml:6:1: pooling: a pooling is a mapping with a kind, such as {kind: attention}"
    ]


def test_a_broken_plugin_is_named_only_where_its_kind_is_asked_for(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "acme_heads-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-heads\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[topwork]\nacme.heads = acme_heads\n")
    write("acme_heads.py", "import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    write("good.yaml", MINIMAL)
    write("bad.yaml", MINIMAL.replace("label: mood", "label: mood, head: {kind: acme}"))
    assert topwork.load_experiment("good.yaml").name == "small"
    with pytest.raises(topwork.ConfigurationError) as caught:
        topwork.load_experiment("bad.yaml")
    message = str(caught.value)
    assert message.startswith("bad.yaml:5:23: tasks.mood.head: no head of kind 'acme' is installed")
    assert (
        "plugin 'acme.heads' of package acme-heads 0.1 is broken: "
        "ModuleNotFoundError: No module named 'no_such_module'" in message
    )


def test_files_are_found_from_the_experiment_files_folder(tmp_path: Path, registry: Registry) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "e.yaml").write_text(MINIMAL.replace("reviews.csv", "data/reviews.csv"))
    (source,) = topwork.load_experiment("experiments/e.yaml", registry=registry).data.values()
    assert source.path == folder / "data" / "reviews.csv"


@pytest.mark.parametrize("override", ["data.reviews.path=mine.csv", "data.reviews={path: mine.csv}"])
def test_files_that_are_set_are_found_from_the_working_directory(
    tmp_path: Path, registry: Registry, override: str
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "e.yaml").write_text(MINIMAL)
    (source,) = topwork.load_experiment("experiments/e.yaml", [override], registry=registry).data.values()
    assert source.path == tmp_path / "mine.csv"


def test_a_file_for_each_split_may_come_from_two_places(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.yaml").write_text(MINIMAL.replace("path: reviews.csv", "train: a.csv, test: b.csv"))
    (source,) = topwork.load_experiment("sub/e.yaml", ["data.reviews.test=c.csv"], registry=registry).data.values()
    assert source.files() == {"train": tmp_path / "sub" / "a.csv", "test": tmp_path / "c.csv"}


def test_a_home_folder_is_expanded(load: Load) -> None:
    (source,) = load(MINIMAL.replace("reviews.csv", "~/reviews.csv")).data.values()
    assert source.path == (Path.home() / "reviews.csv").resolve()


@pytest.mark.parametrize("path", ["~no-such-user/reviews.csv", '"a\\0b.csv"'])
def test_a_path_that_cannot_be_is_placed(errors: Errors, path: str) -> None:
    (error,) = errors(MINIMAL.replace("path: reviews.csv", f"path: {path}"))
    assert error.startswith("e.yaml:3:13: data.reviews.path: ")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=5", ("training", "epochs"), 5),
        ("optimizer.backbone_lr=1e-4", ("optimizer", "backbone_lr"), 1e-4),
        ("training.patience=null", ("training", "patience"), None),
        ("training.patience=", ("training", "patience"), None),
        ("freeze.patterns.1=layer.4", ("freeze", "patterns"), ["layer.5.ffn", "layer.4"]),
        ("freeze.patterns=[layer.*]", ("freeze", "patterns"), ["layer.*"]),
        ("pooling={kind: mean}", ("pooling",), {"kind": "mean"}),
        ("tasks.mood.head.hidden=[]", ("tasks", "mood", "head", "hidden"), []),
        ("data.reviews.pattern=(?P<text>a=b)", ("data", "reviews", "pattern"), "(?P<text>a=b)"),
        ("tracking.uri=http://host:5000", ("tracking", "uri"), "http://host:5000"),
    ],
)
def test_a_setting_is_overridden(load: Load, override: str, path: tuple[str, ...], value: object) -> None:
    node = load(FULL, override).dump()
    for key in path:
        node = node[key]
    assert node == value


def test_the_last_of_two_overrides_wins(load: Load) -> None:
    assert load(MINIMAL, "training.epochs=5", "training.epochs=6").training.epochs == 6


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("training.epohcs=5", "training.epohcs: unknown key; did you mean epochs?"),
        ("trainign.epochs=5", "trainign: unknown key; did you mean training?"),
        ("training.epochs=0", "training.epochs: input should be greater than or equal to 1, got 0"),
        ("training.epochs=many", "training.epochs: input should be a valid integer, got 'many'"),
        ("freeze.patterns.0=3", "freeze.patterns.0: input should be a valid string, got 3"),
        ("tasks.mood={}", "tasks.mood.label: this key is required"),
        ("training.epochs", "write it as path=value, such as training.epochs=5"),
        ("=5", "write it as path=value, such as training.epochs=5"),
        ("", "write it as path=value, such as training.epochs=5"),
        ("name.first=x", "name is 'small', not a section"),
        ("freeze.patterns.0.x=x", "freeze.patterns.0 is 'layer.5.ffn', not a section"),
        ("freeze.patterns.2=x", "'2' must be a position in a list of 2, from 0"),
        ("freeze.patterns.last=x", "'last' must be a position in a list of 2, from 0"),
    ],
)
def test_a_wrong_override_is_quoted(errors: Errors, override: str, error: str) -> None:
    assert errors(FULL, override) == [f"--set {override}: {error}"]


@pytest.mark.parametrize("value", ["[1", "{a: 1, a: 2}", "*nobody", "!!python/name:os.mkdir", "\x01"])
def test_an_override_that_is_not_yaml_is_quoted(errors: Errors, value: str) -> None:
    (error,) = errors(FULL, f"training.epochs={value}")
    shown = "\\x01" if value == "\x01" else value
    assert error.startswith(f"--set training.epochs={shown}: the value is not valid YAML: ")


def test_an_error_in_the_file_is_not_blamed_on_an_override_beside_it(errors: Errors) -> None:
    text = MINIMAL + "training: {epochs: 0}\n"
    assert errors(text, "training.seed=3") == [
        "e.yaml:6:12: training.epochs: input should be greater than or equal to 1, got 0"
    ]


def test_one_bound_of_a_study_can_be_overridden(load: Load) -> None:
    study = "study:\n  objective: loss\n  search:\n    optimizer.heads_lr: {low: 1e-4, high: 1e-2}\n"
    experiment = load(FULL + study, "study.search.optimizer.heads_lr.low=0.0005", "study.trials=3")
    assert experiment.study is not None
    assert experiment.study.trials == 3
    assert experiment.study.search["optimizer.heads_lr"].low == 0.0005
    assert experiment.study.search["optimizer.heads_lr"].high == 1e-2


def test_the_experiment_knows_where_it_was_written(load: Load) -> None:
    experiment = load(FULL, "training.epochs=5")
    assert experiment.origin.text == FULL
    assert experiment.origin.locate("freeze", "patterns", 1) == "e.yaml:8:27: freeze.patterns.1"
    assert experiment.origin.locate("training", "epochs") == "--set training.epochs=5: training.epochs"
    assert experiment.origin.locate("training", "seed") == "e.yaml:1:1: training.seed"


DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("text", "overrides", "error"),
    [
        (f"name: {DEEP}", [], "e.yaml:1:56: sections and lists stand inside each other more than 50 deep"),
        ("k" * 1000 + ": 1", [], f"e.yaml:1:1: {'k' * 57}...: unknown key"),
        (f"name: {'k' * 100_000}", [], "e.yaml:1:1: name: string should have at most 60 characters, got 'kkk"),
        ("training: {epochs: " + "9" * 40 + "}", [], "e.yaml:1:20: a whole number must fit 64 bits, got 999"),
        ("training: {monitor: '" + "mean(" * 5000 + "'}", [], "e.yaml:1:12: training.monitor: 'mean(mean("),
        ("pooling: {kind: " + "k" * 100_000 + "}", [], "e.yaml:1:1: pooling: no pooling of kind 'kkk"),
        ("pooling: " + "[x]" * 1, [f"training.epochs={DEEP}"], "--set training.epochs=[[["),
        ("{}", [f"{'a.' * 10_000}b=1"], "--set a.a.a."),
        ("{}", ["x" * 100_000], "--set xxx"),
        ("{}", [f"tasks.a={{label: {'x' * 100_000}, x: 1}}"], "--set tasks.a={label: xxx"),
        ("tasks: {a: {head: {hidden: [1]}}}", [f"tasks.a.head.hidden.{'9' * 5000}=1"], "--set tasks.a.head.hidden.999"),
    ],
    ids=[
        "depth",
        "key",
        "value",
        "digits",
        "objective",
        "kind",
        "set",
        "set path",
        "set word",
        "set value",
        "set index",
    ],
)
def test_what_is_long_or_deep_is_told_in_short(errors: Errors, text: str, overrides: list[str], error: str) -> None:
    found = errors(text, *overrides)
    assert any(line.startswith(error) for line in found), found
    assert sum(map(len, found)) < 2500


@pytest.mark.slow
def test_of_many_errors_the_first_20_and_the_total_are_told(errors: Errors) -> None:
    found = errors(MINIMAL + "".join(f"k{number}: 1\n" for number in range(5000)))
    assert len(found) == 21
    assert found[-1] == "... and 4,980 more; 5,000 errors in all"


def test_what_is_set_on_one_copy_of_an_alias_leaves_the_other(load: Load) -> None:
    text = MINIMAL.replace("mood: {label: mood}", "mood: &it {label: mood}\n  topic: *it")
    experiment = load(text, "tasks.topic.label=topic")
    assert [task.label for task in experiment.tasks.values()] == ["mood", "topic"]


def test_a_broken_plugin_is_told_once(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    registry = topwork.discover()
    registry.problems.append("plugin 'acme' of package acme 0.1 is broken: KeyError")
    tasks = "{a: {label: a, head: {kind: no}}, b: {label: b, head: {kind: no}}}"
    path = write("x.yaml", f"name: x\ndata: {{d: {{path: x.csv}}}}\ntasks: {tasks}\n")
    with pytest.raises(topwork.ConfigurationError) as caught:
        topwork.load_experiment(path, registry=registry)
    assert (str(caught.value) + caplog.text).count("plugin 'acme'") == 1
