"""A study is checked against schema, plugins, model and rows before anything is paid for."""

from pathlib import Path
from typing import Any

import pytest

import topwork
from small_experiment import QUICKSTART
from study_helpers import PAIR, make_study, resolve_small
from topwork.engine.preparation import prepare
from topwork.engine.preparation_cache import PreparationCache
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.lab.study.resolved_study import StudyPlan, check_objectives, plan_study, resolve_study

OBJECTIVE = "mean(sentiment/accuracy, category/accuracy)"

#: The training section that small studies have.
BASELINE = {"epochs": 2, "batch_size": 16, "device": "cpu", "patience": 2, "monitor": "validation/loss"}


def plan(*more: str, **study: Any) -> StudyPlan:
    """Check a small study."""
    return plan_study(resolve_small(*more, **study), PreparationCache())


def test_a_study_without_settings_of_its_own_takes_those_of_the_experiment(tmp_path: Path) -> None:
    study = resolve_small("training.seed=5", trials=4)
    assert study.name == "quickstart"
    assert study.folder == tmp_path / "studies" / "quickstart"
    assert study.storage_url == f"sqlite:///{tmp_path}/studies/quickstart/study.db"
    assert (study.seeds, study.max_epochs, study.n_trials) == ((5,), 2, 4)
    assert [(one.path, one.name, one.baseline) for one in study.search] == [
        ("optimizer.heads_lr", "heads_lr", 1e-3),
        ("optimizer.backbone_lr", "backbone_lr", 5e-5),
    ]


def test_a_study_has_the_name_the_storage_and_the_seeds_that_it_is_given(tmp_path: Path) -> None:
    study = resolve_small(name="pair", storage="postgresql://host/trials", seeds=[3, 1])
    assert (study.name, study.folder) == ("pair", tmp_path / "studies" / "pair")
    assert (study.storage_url, study.seeds) == ("postgresql://host/trials", (3, 1))


@pytest.mark.parametrize(
    ("path", "dimension"),
    [
        ("training", {"choices": [BASELINE, {"epochs": 50}, {"epochs": 20}]}),
        ("training.epochs", {"choices": [2, 50, 20]}),
        ("training.epochs", {"low": 1, "high": 50}),
    ],
)
def test_the_most_epochs_of_any_trial_are_found(path: str, dimension: dict[str, Any]) -> None:
    assert resolve_small(search={path: dimension}).max_epochs == 50


def test_an_experiment_without_a_study_section_cannot_be_studied() -> None:
    experiment = load_experiment(QUICKSTART, ["study=null"])
    with pytest.raises(ConfigurationError, match="the experiment has no study section; add one, such as"):
        resolve_study(experiment, topwork.discover())


def test_a_trial_has_its_values_and_its_seed_and_otherwise_the_experiments() -> None:
    study = resolve_small(seeds=[3, 5])
    experiment = study.trial_experiment({"optimizer.heads_lr": 0.03}, 5)
    assert (experiment.training.seed, study.trial_experiment({}).training.seed) == (5, 3)
    expected = study.experiment.dump()
    expected["optimizer"]["heads_lr"] = 0.03
    expected["training"]["seed"] = 5
    assert experiment.dump() == expected


@pytest.mark.parametrize(("epoch", "patience"), [("last", None), ("best", 2), (None, 2)])
def test_a_trial_that_is_evaluated_by_its_last_epoch_has_no_patience(epoch: Any, patience: int | None) -> None:
    assert resolve_small(epoch=epoch).trial_experiment({}).training.patience == patience


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "mean(sentiment/accuracy, sentiment/f1)"},
            "study.objective: there is no metric 'sentiment/f1', only loss, sentiment/loss, category/loss, "
            "sentiment/accuracy, sentiment/macro_f1, sentiment/matthews, category/accuracy, category/macro_f1, "
            "category/matthews; did you mean sentiment/macro_f1?",
        ),
        (
            {"objective": "mean(sentiment/accuracy, category/loss)"},
            "study.objective: the metrics of one objective must all rise or all fall, but in mean(sentiment/accuracy, "
            "category/loss) sentiment/accuracy should rise and category/loss should fall",
        ),
        (
            {"epoch": "best", "more": ["training.patience=null"]},
            "study.epoch: best epochs are kept by training.patience, which is null; set it, to training.epochs to "
            "train them all, or set study.epoch: last",
        ),
        (
            {"more": ["data.reviews.split={validation: 0.0, test: 0.2}", "training.monitor=training/loss"]},
            "study.objective: a study evaluates trials on validation rows, and there are none: set split.validation "
            "or a validation file",
        ),
    ],
)
def test_an_objective_that_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    study = resolve_small(*changes.pop("more", []), **changes)
    with pytest.raises(ConfigurationError) as caught:
        check_objectives(study, prepare(study.experiment))
    assert str(caught.value).endswith(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "maximize"), [(OBJECTIVE, (True,)), ("loss", (False,)), (["loss", OBJECTIVE], (False, True))]
)
def test_the_direction_follows_from_the_metrics(objective: Any, maximize: tuple[bool, ...]) -> None:
    assert plan(objective=objective).maximize == maximize


def test_every_value_that_does_not_fit_the_model_is_named() -> None:
    choices = [["layer.1.ffn"], ["layer.7.ffn"], ["layer.8.ffn"]]
    with pytest.raises(ConfigurationError) as caught:
        plan(search={"freeze.patterns": {"choices": choices}}, objective="sentiment/acc")
    first, second, third = str(caught.value).splitlines()
    assert "study.search.freeze.patterns: ['layer.7.ffn']: " in first
    assert "study.search.freeze.patterns: ['layer.8.ffn']: " in second
    assert "study.objective: there is no metric 'sentiment/acc'" in third


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epoch": "last"}, "study.epoch: last sets training.patience aside, so it cannot be searched"),
        ({"epoch": "best"}, "study.epoch: best needs training.patience in every trial, and here it is null"),
    ],
)
def test_a_patience_that_decides_nothing_is_not_searched(section: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan(search={"training.patience": {"choices": [2, None]}}, **section)
    assert str(caught.value).endswith(f"study.search.training.patience: None: {message}")


def test_the_baseline_is_the_experiment_with_the_first_seed() -> None:
    planned = plan("training.seed=9", seeds=[3, 5])
    assert planned.baseline.experiment.dump() == make_study("training.seed=3").dump()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "study", "changed"),
    [
        (["training.store=off", "tracking.enabled=false", "name=another"], {"workers": 1, "trials": 9}, set()),
        (["optimizer.weight_decay=0.5"], {}, {"optimizer.weight_decay"}),
        (["data.reviews.limit=70"], {}, {"data.reviews.limit"}),
        (["data.reviews.on_faulty_rows=skip"], {}, {"data.reviews.on_faulty_rows"}),
        (["tasks.category.labels={casefold: true}"], {}, {"tasks.category.labels.casefold"}),
        ([], {"seeds": [1]}, {"seeds"}),
        ([], {"epoch": "last"}, {"epoch"}),
        ([], {"objective": "loss"}, {"objective"}),
        (
            [],
            {"search": {**PAIR, "optimizer.heads_lr": {"low": 1e-4, "high": 1e-2}}},
            {"search of optimizer.heads_lr"},
        ),
    ],
)
def test_the_identity_has_what_trials_depend_on_and_nothing_else(
    more: list[str], study: dict[str, Any], changed: set[str]
) -> None:
    before, after = plan().identity, plan(*more, **study).identity
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == changed


@pytest.mark.slow
def test_the_identity_knows_the_data_by_content_and_not_by_name(tmp_path: Path) -> None:
    lines = (QUICKSTART.parent / "data" / "synthetic_reviews.csv").read_text().splitlines(keepends=True)
    (tmp_path / "same.csv").write_text("".join(lines))
    (tmp_path / "other.csv").write_text("".join([lines[0], *lines[2:]]))
    here, same, other = (
        plan(*more).identity
        for more in ([], *([f"data.reviews.path={tmp_path / name}.csv"] for name in ("same", "other")))
    )
    assert here == same
    assert {name for name in here if here[name] != other[name]} == {"sha256 of the data"}
