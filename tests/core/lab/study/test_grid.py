"""A grid of variants is a study of its own, and they are compared by what is watched."""

from dataclasses import replace

import pytest
import torch

from run_helpers import small
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.interfaces.head import Metric
from topwork.interfaces.labels import Numbers
from topwork.lab.study.grid import check_splits, compared_metric, gain, with_grid

CHOICES = [{"kind": "cls"}, {"kind": "mean"}]


def gridded(experiment: Experiment, workers: int | None = None) -> Experiment:
    return with_grid(experiment, "probe", "pooling", CHOICES, objective="loss", workers=workers)


def test_every_choice_is_trained_once_under_a_name_of_its_own() -> None:
    study = gridded(small("training.seeds=[3, 4]")).study
    assert study is not None
    assert (study.name, study.trials, study.sampler, study.seeds) == ("quickstart-probe", 2, "grid", [3, 4])
    assert study.search["pooling"].choices == CHOICES
    assert not study.baseline


def test_the_study_section_gives_name_workers_storage_and_timeout() -> None:
    section = "study={search: {training.epochs: {choices: [1]}}, objective: loss, name: mine, workers: 3, timeout: 9.0}"
    study = gridded(small(section)).study
    assert study is not None
    assert (study.name, study.workers, study.timeout) == ("mine-probe", 3, 9.0)
    assert gridded(small(section), workers=1).study.workers == 1  # type: ignore[union-attr]  # it has one


def test_the_study_section_gives_the_launcher() -> None:
    section = (
        "study={search: {training.epochs: {choices: [1]}}, objective: loss, launcher: slurm, slurm: {partition: gpu}}"
    )
    study = gridded(small(section)).study
    assert study is not None
    assert study.launcher == "slurm"
    assert study.slurm is not None
    assert study.slurm.partition == "gpu"


def test_a_name_is_never_cut_short() -> None:
    with pytest.raises(ConfigurationError, match=r"would be named n+-probe, which is longer than 60 characters; give"):
        gridded(small(f"name={'n' * 55}"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ("data.reviews.split={validation: 0.2, test: 0.0}", "no test rows"),
        ("data.reviews.split={validation: 0.0, test: 0.0}", "no validation rows and no test rows"),
    ],
)
def test_rows_to_choose_by_and_to_compare_on_are_needed(settings: str, missing: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_splits(prepare(small("training.monitor=training/loss", settings)), "probe")
    assert (
        f"probe needs validation rows to choose epochs by and test rows to compare on, and there are {missing}"
        in str(caught.value)
    )


@pytest.mark.usefixtures("installed")
def test_variants_are_compared_by_what_is_watched_or_the_first_metric() -> None:
    prepared = prepare(small("training.monitor=validation/sentiment/macro_f1"))
    (monitor,) = prepared.monitors.values()
    heads = prepared.model.tasks
    assert compared_metric(heads["sentiment"].metrics, monitor, "sentiment") == "macro_f1"
    assert compared_metric(heads["category"].metrics, monitor, "category") == "accuracy"


def outputs(*values: float) -> SplitOutputs:
    return SplitOutputs(
        split="test",
        texts_sha256={"score": ""},
        width=1,
        labels={"score": Numbers(("score",), (0.0,), (1.0,))},
        outputs={"score": torch.tensor(values)[:, None]},
        targets={"score": torch.zeros(len(values), 1)},
    )


@pytest.mark.parametrize("greater", [True, False])
def test_more_is_better_whatever_the_metric(greater: bool) -> None:
    error = Metric("error", lambda found, wanted: (found - wanted).abs()[:, 0], greater_is_better=False)
    before, after = outputs(1.0, 2.0, 3.0), outputs(0.5, 1.0, 2.0)
    found = gain(before, after, "score", replace(error, greater_is_better=greater))
    assert found.value == pytest.approx(-5 / 6 if greater else 5 / 6)
    assert found.low <= found.value <= found.high
