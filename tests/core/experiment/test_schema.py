"""What an experiment may say, and what it means where it says nothing."""

from typing import Any

import pytest
from pydantic import ValidationError

import topwork
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.experiment.schema import Experiment
from topwork.interfaces.labels import Classes, Distribution
from topwork.registry import Registry, discover
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.optimizer_groupings.uniform import UniformConfig
from topwork_plugins.poolings.mean import MeanConfig
from topwork_plugins.samplers.proportional import ProportionalConfig

REVIEWS = {"reviews": {"path": "reviews.csv"}}
MOOD = {"mood": {"label": "mood"}}
TWO_SOURCES = {"reviews": {"path": "reviews.csv"}, "tweets": {"path": "tweets.csv"}}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


def make(registry: Registry, **sections: Any) -> Experiment:
    """Validate an experiment that is minimal but for some sections."""
    raw = {"name": "small", "data": REVIEWS, "tasks": MOOD, **sections}
    return Experiment.model_validate(raw, context={"registry": registry})


#: What the head for classes takes.
BOTH = (Classes, Distribution)


def errors(registry: Registry, **sections: Any) -> dict[str, str]:
    """What is wrong with an experiment, by dotted path."""
    with pytest.raises(ValidationError) as caught:
        make(registry, **sections)
    return {".".join(map(str, e["loc"])): e["msg"].removeprefix("Value error, ") for e in caught.value.errors()}


def test_the_defaults_are_the_reference_recipe(registry: Registry) -> None:
    dumped = make(registry).dump()
    heads = {"kind": "classification", "hidden": [100, 50], "activation": "relu", "dropout": 0.0}
    heads |= {"class_weights": None, "label_smoothing": 0.0}
    assert dumped["backbone"]["kind"] == "distilbert"
    assert dumped["backbone"]["model"] == "distilbert-base-uncased"
    assert dumped["backbone"]["max_length"] == 512
    assert dumped["pooling"] == {"kind": "cls"}
    assert dumped["tasks"]["mood"]["head"] == heads
    assert dumped["tasks"]["mood"]["loss_weight"] == 1.0
    assert dumped["freeze"] == {"kind": "all_except", "patterns": ["layer.5.ffn", "layer.5.output_layer_norm"]}
    assert dumped["optimizer"] == {
        "kind": "heads_and_backbone",
        "heads_lr": 1e-3,
        "backbone_lr": 5e-5,
        "weight_decay": 0.01,
        "no_decay": False,
    }


def test_the_default_training_is_the_reference_recipes(registry: Registry) -> None:
    training = make(registry).training
    assert (training.epochs, training.batch_size, training.accumulation, training.shuffle) == (20, 20, 1, False)
    assert (training.patience, training.monitor) == (2, "training/loss")
    assert (training.schedule, training.warmup, training.clip_norm) == ("constant", 0.0, None)


def test_the_binary_head_has_the_reference_recipes_layers() -> None:
    assert BinaryConfig().model_dump() == {"kind": "binary", "hidden": (100, 50), "activation": "relu", "dropout": 0.0}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"reviews": {"path": "r.txt", "pattern": "(?P<text>.*)", "limit": 5, "split": {"validation": 0.1}}}},
        {"data": {"reviews": {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}}},
        {"backbone": {"kind": "minilm"}, "pooling": {"kind": "mean"}, "freeze": {"kind": "last_layers", "count": 2}},
        {"optimizer": {"kind": "uniform", "lr": 3e-4}, "training": {"patience": None, "clip_norm": 1.0, "warmup": 0.1}},
        {"tasks": {"mood": {"label": "m", "head": {"kind": "binary", "hidden": []}, "loss_weight": 0.5}}},
        {"tracking": {"enabled": False, "uri": "sqlite:///x.db", "experiment": "e"}},
    ],
    ids=lambda sections: "-".join(sections) or "minimal",
)
def test_a_dump_is_read_back_as_the_same_experiment(registry: Registry, sections: dict[str, Any]) -> None:
    experiment = make(registry, **sections)
    again = Experiment.model_validate(experiment.dump(), context={"registry": registry})
    assert again == experiment
    assert again.dump() == experiment.dump()


def test_a_dump_says_what_was_asked_for(registry: Registry) -> None:
    dumped = make(registry, freeze={"kind": "last_layers", "count": 3}, pooling={"kind": "mean"}).dump()
    assert dumped["freeze"] == {"kind": "last_layers", "count": 3}
    assert dumped["pooling"] == {"kind": "mean"}
    assert dumped["data"]["reviews"]["path"] == "reviews.csv"


def test_the_study_section_has_no_part_in_a_training(registry: Registry) -> None:
    study = {"search": {"pooling.kind": {"choices": ["cls", "mean"]}}, "objective": "loss"}
    with_study, without = make(registry, study=study), make(registry)
    assert with_study.study is not None
    assert with_study.dump() == without.dump()
    assert with_study.written() == without.written()


def test_an_experiment_is_made_in_python_from_plugin_configs() -> None:
    experiment = topwork.Experiment.model_validate(
        {
            "name": "small",
            "data": REVIEWS,
            "backbone": MiniLmConfig(),
            "pooling": MeanConfig(),
            "tasks": {"mood": {"label": "mood", "head": ClassificationConfig(hidden=())}},
            "freeze": NoneConfig(),
            "optimizer": UniformConfig(),
            "sampling": ProportionalConfig(),
            "weighting": FixedConfig(),
        }
    )
    assert experiment.tasks["mood"].head == ClassificationConfig(hidden=())
    assert experiment.origin.locate("tasks", "mood") == "tasks.mood"


def test_a_config_of_another_interface_is_refused(registry: Registry) -> None:
    assert set(errors(registry, pooling=NoneConfig())) == {"pooling"}


def test_in_a_script_kinds_are_those_that_are_installed() -> None:
    given = {"name": "small", "data": REVIEWS, "tasks": MOOD, "pooling": {"kind": "mean"}}
    experiment = Experiment.model_validate(given)
    assert experiment.pooling.kind == "mean"


def test_a_context_without_a_registry_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"in a context there must be a registry: context="):
        Experiment.model_validate({"name": "small", "data": REVIEWS, "tasks": MOOD}, context={"else": 1})


def test_an_experiment_cannot_be_changed(registry: Registry) -> None:
    experiment = make(registry)
    with pytest.raises(ValidationError, match="frozen"):
        experiment.name = "other"  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize("value", [True, 3.0, "3", 0, -1, None], ids=repr)
@pytest.mark.parametrize("name", ["epochs", "batch_size", "accumulation"])
def test_a_count_is_a_whole_number_from_1(registry: Registry, name: str, value: object) -> None:
    assert set(errors(registry, training={name: value})) == {f"training.{name}"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience", 0),
        ("patience", False),
        ("seed", -1),
        ("seed", True),
        ("seed", 2**63),
        ("shuffle", 1),
        ("shuffle", "no"),
        ("clip_norm", 0),
        ("clip_norm", True),
        ("clip_norm", float("nan")),
        ("warmup", 1),
        ("schedule", "linaer"),
        ("device", "gpu"),
        ("precision", "float16"),
        ("monitor", None),
    ],
)
def test_a_training_setting_of_the_wrong_kind_is_refused(registry: Registry, name: str, value: object) -> None:
    assert set(errors(registry, training={name: value})) == {f"training.{name}"}


@pytest.mark.parametrize("value", [True, 0, -1.0, "2", float("inf"), float("nan")], ids=repr)
def test_a_loss_weight_is_a_finite_number_above_0(registry: Registry, value: object) -> None:
    tasks = {"mood": {"label": "mood", "loss_weight": value}}
    assert set(errors(registry, tasks=tasks)) == {"tasks.mood.loss_weight"}


@pytest.mark.parametrize(
    ("section", "settings", "path"),
    [
        ("freeze", {"kind": "last_layers", "count": True}, "freeze.count"),
        ("freeze", {"kind": "last_layers", "count": "2"}, "freeze.count"),
        ("freeze", {"kind": "last_layers", "count": 0}, "freeze.count"),
        ("freeze", {"kind": "all_except", "patterns": []}, "freeze.patterns"),
        ("optimizer", {"kind": "uniform", "lr": True}, "optimizer.lr"),
        ("optimizer", {"kind": "uniform", "lr": "0.1"}, "optimizer.lr"),
        ("optimizer", {"kind": "uniform", "lr": -1}, "optimizer.lr"),
        ("optimizer", {"kind": "heads_and_backbone", "heads_lr": float("nan")}, "optimizer.heads_lr"),
        ("backbone", {"kind": "minilm", "max_length": True}, "backbone.max_length"),
        ("backbone", {"kind": "minilm", "max_length": 513}, "backbone.max_length"),
    ],
)
def test_a_plugin_setting_of_the_wrong_kind_is_refused(
    registry: Registry, section: str, settings: dict[str, Any], path: str
) -> None:
    assert set(errors(registry, **{section: settings})) == {path}


@pytest.mark.parametrize("value", [[True], ["7"], [7.5], [0]], ids=repr)
def test_hidden_layers_are_whole_numbers_from_1(registry: Registry, value: object) -> None:
    tasks = {"mood": {"label": "mood", "head": {"kind": "binary", "hidden": value}}}
    assert set(errors(registry, tasks=tasks)) == {"tasks.mood.head.hidden.0"}


def test_accumulation_must_not_exceed_the_batch(registry: Registry) -> None:
    assert errors(registry, training={"batch_size": 4, "accumulation": 5}) == {
        "training": "accumulation (5) must not exceed batch_size (4)"
    }
    assert make(registry, training={"batch_size": 4, "accumulation": 4}).training.accumulation == 4


@pytest.mark.parametrize("name", ["", "1st", "a b", "a.b", "a/b", "../a", "größe", "a\n", "x" * 61], ids=repr)
def test_a_name_that_would_not_do_in_a_path_is_refused(registry: Registry, name: str) -> None:
    assert set(errors(registry, name=name)) == {"name"}
    assert len(errors(registry, tasks={name: MOOD["mood"]})) == 1
    assert len(errors(registry, data={name: REVIEWS["reviews"]})) == 1


@pytest.mark.parametrize("name", ["a", "A-b_1", "type", "head", "x" * 60])
def test_other_names_are_fine(registry: Registry, name: str) -> None:
    experiment = make(registry, name=name, tasks={name: MOOD["mood"]}, data={name: REVIEWS["reviews"]})
    assert list(experiment.tasks) == [name]


@pytest.mark.parametrize("section", ["data", "tasks"])
def test_there_is_at_least_one_source_and_one_task(registry: Registry, section: str) -> None:
    assert set(errors(registry, **{section: {}})) == {section}


def test_a_task_reads_the_only_source_where_it_names_none(registry: Registry) -> None:
    assert list(make(registry).label_columns) == ["reviews"]
    assert list(make(registry).label_columns["reviews"]) == ["mood"]


def test_a_source_that_no_task_reads_is_refused(registry: Registry) -> None:
    said = errors(registry, data=TWO_SOURCES, tasks={"mood": {"label": "mood", "source": "tweets"}})
    assert list(said.values()) == ["no task reads source reviews; remove it, or name it as a task's source"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (MOOD, "task mood must name its source, one of reviews, tweets"),
        ({"mood": {"label": "m", "source": "tweet"}}, "tasks read unknown source tweet; data has reviews, tweets"),
    ],
    ids=["unnamed", "unknown"],
)
def test_every_task_reads_a_known_source(registry: Registry, tasks: dict[str, Any], words: str) -> None:
    assert list(errors(registry, data=TWO_SOURCES, tasks=tasks).values()) == [words]


def test_labels_are_stripped_and_composed_by_default(registry: Registry) -> None:
    experiment = make(registry)
    rules = experiment.tasks["mood"].labels
    assert (rules.strip, rules.casefold, rules.normalize) == (True, False, "NFC")
    assert (rules.separator, rules.rename, rules.order) == (None, {}, None)
    assert experiment.label_columns == {
        "reviews": {"mood": LabelColumns(("mood",), LabelFormat(), spaces=BOTH, head="classification")}
    }


def test_each_source_has_the_label_columns_of_the_tasks_that_read_it(registry: Registry) -> None:
    tasks = {
        "mood": {"label": "m", "source": "tweets", "missing": "skip"},
        "topic": {"label": "t", "source": "reviews"},
    }
    assert make(registry, data=TWO_SOURCES, tasks=tasks).label_columns == {
        "reviews": {"topic": LabelColumns(("t",), LabelFormat(), spaces=BOTH, head="classification")},
        "tweets": {"mood": LabelColumns(("m",), LabelFormat(), "skip", spaces=BOTH, head="classification")},
    }


def test_a_missing_label_is_an_error_by_default(registry: Registry) -> None:
    assert make(registry).tasks["mood"].missing == "error"
    assert list(errors(registry, tasks={"mood": {"label": "mood", "missing": "drop"}})) == ["tasks.mood.missing"]


@pytest.mark.parametrize("labels", [{"strip": 1}, {"normalize": "nfc"}, {"fold": True}, "casefold"], ids=repr)
def test_other_rules_for_labels_are_refused(registry: Registry, labels: object) -> None:
    (place,) = errors(registry, tasks={"mood": {"label": "mood", "labels": labels}})
    assert place.startswith("tasks.mood.labels")


def test_a_list_of_many_sources_is_told_in_short(registry: Registry) -> None:
    many = {f"source_{number}": {"path": "reviews.csv"} for number in range(2000)}
    (message,) = errors(registry, data=many, tasks={"mood": {"label": "mood", "source": "x"}}).values()
    assert message.endswith("... and 1,980 more")


def test_a_head_for_two_texts_wants_a_source_with_two(registry: Registry) -> None:
    tasks = {"alike": {"label": "score", "head": {"kind": "similarity"}}}
    assert list(errors(registry, tasks=tasks).values()) == [
        "head similarity of task alike reads two texts, but source reviews has one; "
        "name two columns: data.reviews.text: [first, second]"
    ]


def test_a_head_for_words_wants_a_source_with_words(registry: Registry) -> None:
    tag = {"tag": {"label": "tags", "head": {"kind": "tagging"}}}
    assert errors(registry, tasks=tag) == {
        "": "head tagging of task tag reads words, but source reviews has texts that are not divided into words; name "
        "the column that has them: data.reviews.words: COLUMN"
    }
    made = make(registry, tasks=tag, data={"reviews": {"path": "a.jsonl", "words": "tokens"}})
    assert made.reads == {"tag": "words"}


@pytest.mark.parametrize("labels", [{"order": ["1", "2"]}, {"rename": {"a": "1"}}, {"casefold": True}], ids=repr)
def test_what_would_do_nothing_to_numbers_is_refused(registry: Registry, labels: dict[str, object]) -> None:
    task = {"label": "score", "labels": labels, "head": {"kind": "regression"}}
    setting = f"labels.{next(iter(labels))}"
    assert errors(registry, tasks={"score": task}) == {
        "tasks.score": f"head regression takes numbers, which are read as they are; leave out {setting}"
    }


def test_a_separator_is_refused_where_a_cell_has_one_label(registry: Registry) -> None:
    task = {"label": "mood", "labels": {"separator": ","}}
    assert errors(registry, tasks={"mood": task}) == {
        "tasks.mood": "head classification takes one label of a cell, which is not divided; leave out labels.separator"
    }
    for kind in ("multilabel", "tagging"):
        source = {"reviews": {"path": "a.csv", "words": "words"}}
        make(registry, data=source, tasks={"mood": task | {"head": {"kind": kind}}})


def test_a_column_of_labels_is_named_once(registry: Registry) -> None:
    assert errors(registry, tasks={"mood": {"label": ["a", "a"]}}) == {"tasks.mood.label": "name each column once"}
    several = {"label": ["a", "b"], "labels": {"separator": ","}, "head": {"kind": "multilabel"}}
    assert errors(registry, tasks={"mood": several}) == {
        "tasks.mood": "several label columns have one label each; leave out labels.separator"
    }
