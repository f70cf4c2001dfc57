"""What tasks gain from each other, measured as runs of their own would be."""

import csv
from pathlib import Path

import pytest
from mlflow import MlflowClient

import topwork
from run_helpers import small
from study_helpers import trained_here
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.lab.comparison import compare
from topwork.lab.runs import train_seeds
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.lab.study.transfer import subsets, transfer, with_subsets
from topwork.lab.study.transfer_result import TransferResult

pytestmark = pytest.mark.slow

TRAINING = "training={epochs: 2, batch_size: 16, device: cpu, patience: 2, monitor: validation/loss, seeds: [0, 1]}"


def transferred(experiment: Experiment) -> TransferResult:
    with trained_here():
        return transfer(experiment)


def test_subsets_are_each_alone_each_pair_and_all() -> None:
    assert subsets(["a", "b", "c"]) == [["a"], ["b"], ["c"], ["a", "b"], ["a", "c"], ["b", "c"], ["a", "b", "c"]]
    assert subsets(["a", "b"]) == [["a"], ["b"], ["a", "b"]]


def test_a_gain_is_that_of_two_runs_with_the_same_seeds(tmp_path: Path) -> None:
    result = transferred(small(TRAINING, "tracking.enabled=false"))
    assert result.metrics == {"sentiment": "accuracy", "category": "accuracy"}
    joint = train_seeds(small(TRAINING, "tracking.enabled=false"), output=tmp_path / "joint", alone=True)
    for task, partner in (("sentiment", "category"), ("category", "sentiment")):
        gain, expected = result.gains[task, partner], joint.against_alone[f"{task}/accuracy"]
        assert (gain.value, gain.low, gain.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert gain.seeds == 2
    assert result.trainings == 6
    with (result.folder / "transfer.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["with"]) for row in rows] == [("sentiment", "category"), ("category", "sentiment")]
    assert float(rows[0]["gain"]) == result.gains["sentiment", "category"].value


class Interrupting(StudyObserver):
    """Interrupts once a subset is trained."""

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        if finished:
            raise KeyboardInterrupt


def test_the_same_command_goes_on_where_it_was_interrupted() -> None:
    experiment = small(TRAINING, "tracking.enabled=false")
    with trained_here(), pytest.raises(KeyboardInterrupt):
        transfer(experiment, observer=Interrupting())
    trained = sorted((Path("studies") / "quickstart-transfer" / "trials").rglob("*.safetensors"))
    assert len(trained) == 1
    written = trained[0].stat().st_mtime_ns
    assert transferred(experiment).trainings == 6
    assert trained[0].stat().st_mtime_ns == written


def test_mlflow_has_the_matrix_and_a_run_for_each_subset(store_uri: str) -> None:
    result = transferred(small(TRAINING, f"tracking.uri={store_uri}"))
    client = MlflowClient(tracking_uri=store_uri)
    run = client.get_run(result.run_id)
    gain = result.gains["sentiment", "category"]
    assert run.data.metrics["transfer/sentiment/category"] == pytest.approx(gain.value)
    assert run.data.metrics["alone/sentiment/accuracy"] == pytest.approx(result.alone["sentiment"].value)
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert "transfer.csv" in files
    assert [one.path for one in client.list_artifacts(run.info.run_id, "figures")] == ["figures/transfer.png"]
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    by_tasks = {one.data.params["tasks"]: one.info.run_name for one in below}
    assert by_tasks.keys() == {'["sentiment"]', '["category"]', '["sentiment", "category"]'}
    pair = [by_tasks['["sentiment"]'], by_tasks['["sentiment", "category"]']]
    compared = compare(pair, uri=store_uri)
    assert compared.differences["sentiment/accuracy"][0].value == pytest.approx(gain.value, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.tasks=[sentiment]"], "transfer trains all subsets of tasks; leave out training.tasks"),
        (
            ["data.reviews.split={validation: 0.2, test: 0.0}"],
            "there are no test rows: set split",
        ),
        (["data.reviews.split={validation: 0.0, test: 0.2}", "training.monitor=training/loss"], "no validation rows"),
        (["training.monitor=validation/sentiment/accuracy"], "says nothing of category"),
        (
            [
                "tasks.again={label: sentiment, head: {kind: binary}}",
                "freeze={kind: none}",
                "weighting={kind: torchjd, aggregator: TrimmedMean, options: {trim_number: 1}}",
            ],
            "task sentiment cannot be trained alone: --set weighting=",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transferred(small(TRAINING, "tracking.enabled=false", *settings))
    assert message in str(caught.value)


def test_it_is_said_where_heads_and_what_they_share_are_of_several_epochs() -> None:
    experiment = small(
        "tasks.sentiment={label: sentiment, head: {kind: binary, hidden: []}, monitor: loss, patience: 1}",
        "tasks.category={label: category, head: {kind: classification}, monitor: loss, patience: 20}",
        "training={epochs: 12, batch_size: 16, device: cpu, stop: per_task, seeds: [0]}",
        "optimizer={kind: heads_and_backbone, heads_lr: 0.02, backbone_lr: 0.01}",
        "tracking.enabled=false",
    )
    result = transferred(experiment)
    told = [one for one in result.warnings if "a head that had stopped" in one]
    assert [one[:19] for one in told] == ["in 1 of 3 subsets a"]


def test_one_task_has_no_partner() -> None:
    experiment = small("tasks={sentiment: {label: sentiment, head: {kind: binary}}}", "study={}" if False else TRAINING)
    with pytest.raises(
        ConfigurationError, match="transfer needs two tasks or more, and the experiment has only sentiment"
    ):
        with_subsets(experiment, None)


def test_the_name_is_that_of_the_study_and_never_cut_short() -> None:
    assert with_subsets(small(TRAINING, "study.name=mine"), None).study.name == "mine-transfer"
    with pytest.raises(ConfigurationError, match="longer than 60 characters"):
        with_subsets(small(TRAINING, f"name={'n' * 52}"), None)


def test_the_study_section_gives_workers_and_storage() -> None:
    study = "study={search: {optimizer.heads_lr: {low: 1e-4, high: 1e-2}}, objective: loss, workers: 3, timeout: 60.0}"
    settings = with_subsets(small(TRAINING, study), None).study
    assert settings is not None
    assert (settings.workers, settings.timeout, settings.seeds, settings.name) == (
        3,
        60.0,
        [0, 1],
        "quickstart-transfer",
    )
    assert with_subsets(small(TRAINING, study), 1).study.workers == 1  # type: ignore[union-attr]  # it has one


def test_it_is_public() -> None:
    assert topwork.transfer is transfer
