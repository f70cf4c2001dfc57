"""Differences between models on the same rows are measured row by row, and only where the rows are the same."""

import dataclasses
import json

import pytest
import torch
from scipy.stats import binomtest

from topwork.building_blocks import class_metrics
from topwork.engine.evaluation.comparison import (
    Difference,
    SplitOutputs,
    difference,
    differing,
    digest_of_texts,
    stack_seeds,
    why_not_comparable,
)
from topwork.errors import PluginError, StorageError
from topwork.interfaces.head import Metric
from topwork.interfaces.labels import Classes

ACCURACY, MACRO_F1, _ = class_metrics(2)


def outputs_with(right: list[bool], targets: torch.Tensor) -> torch.Tensor:
    """Outputs (N, 2) whose predictions are right where asked for."""
    predicted = torch.where(torch.tensor(right), targets, 1 - targets)
    return torch.nn.functional.one_hot(predicted, 2).float()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.arange(100) % 2


def split_outputs(targets: torch.Tensor, right: list[bool], task: str = "mood") -> SplitOutputs:
    return SplitOutputs(
        split="test",
        texts_sha256={task: "0" * 64},
        width=16,
        labels={task: Classes(("no", "yes"))},
        outputs={task: outputs_with(right, targets)},
        targets={task: targets},
    )


def test_equal_models_do_not_differ(targets: torch.Tensor) -> None:
    outputs = outputs_with([row % 3 > 0 for row in range(100)], targets)
    for metric, p in ((ACCURACY, 1.0), (MACRO_F1, None)):
        assert difference((metric, [outputs]), (metric, [outputs]), targets) == Difference(0.0, 0.0, 0.0, p)


def test_the_difference_is_second_minus_first(targets: torch.Tensor) -> None:
    first = outputs_with([row >= 30 for row in range(100)], targets)
    second = outputs_with([row >= 10 for row in range(100)], targets)
    for metric in (ACCURACY, MACRO_F1):
        there, back = (
            difference((metric, [one]), (metric, [other]), targets) for one, other in ((first, second), (second, first))
        )
        assert there.value == pytest.approx(0.2, abs=1e-6)
        assert there.low == pytest.approx(-back.high, abs=1e-6)
        assert there.high == pytest.approx(-back.low, abs=1e-6)
        assert 0.1 < there.low < 0.2 < there.high < 0.3


def test_pairing_makes_the_interval_that_of_the_rows_that_differ(targets: torch.Tensor) -> None:
    """Of 100 rows 40 are wrong for both, and 5 more for the first: the spread is that of 5 in 100."""
    first = outputs_with([row >= 45 for row in range(100)], targets)
    second = outputs_with([row >= 40 for row in range(100)], targets)
    found = difference((ACCURACY, [first]), (ACCURACY, [second]), targets)
    expected = 1.96 * (0.05 * 0.95 / 100) ** 0.5
    assert found.low == pytest.approx(0.05 - expected, abs=0.012)
    assert found.high == pytest.approx(0.05 + expected, abs=0.012)


@pytest.mark.parametrize(("won", "lost"), [(0, 6), (5, 1), (9, 9), (12, 3)])
def test_the_test_of_mcnemar_counts_the_rows_that_only_one_gets_right(won: int, lost: int) -> None:
    targets = torch.arange(60) % 2
    first = outputs_with([row >= won for row in range(60)], targets)
    second = outputs_with([not won <= row < won + lost for row in range(60)], targets)
    p = difference((ACCURACY, [first]), (ACCURACY, [second]), targets).p_value
    assert p == pytest.approx(binomtest(won, won + lost).pvalue)


@pytest.mark.parametrize("graded", [0, 1])
def test_the_test_of_mcnemar_is_for_scores_of_0_and_1_only(targets: torch.Tensor, graded: int) -> None:
    def compute(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs[:, 0]

    scores = Metric("score", compute)
    zero_or_one, others = (targets % 2).float()[:, None], torch.linspace(0, 1, 100)[:, None]
    pair = [(scores, [zero_or_one]), (scores, [others])]
    assert difference(pair[graded], pair[1 - graded], targets).p_value is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_outputs_are_read_as_they_were_written(targets: torch.Tensor, seeds: int) -> None:
    kept = stack_seeds([split_outputs(targets, [True] * 100, task="sentiment/of a text")] * seeds)
    read = SplitOutputs.from_bytes(kept.to_bytes(), name="a file")
    assert (read.split, read.texts_sha256, read.width, read.seeds) == ("test", kept.texts_sha256, 16, seeds)
    assert read.labels == kept.labels
    for task in kept.labels:
        assert torch.equal(read.outputs[task], kept.outputs[task])
        assert torch.equal(read.targets[task], kept.targets[task])


@pytest.mark.parametrize("end", [0, 7, 50, -1])
def test_a_damaged_file_is_refused(targets: torch.Tensor, end: int) -> None:
    content = split_outputs(targets, [True] * 100).to_bytes()
    with pytest.raises(StorageError, match=r"^a file is damaged: .*; compare other runs, or train that one again$"):
        SplitOutputs.from_bytes(content[:end], name="a file")


def test_a_file_of_something_else_is_refused() -> None:
    from safetensors.torch import save

    with pytest.raises(StorageError, match="a file is damaged"):
        SplitOutputs.from_bytes(save({"x": torch.ones(1)}), name="a file")


def test_models_with_outputs_for_the_same_rows_can_be_compared(targets: torch.Tensor) -> None:
    assert why_not_comparable(split_outputs(targets, [True] * 100), split_outputs(targets, [False] * 100)) == ""


def test_models_with_outputs_for_other_rows_cannot(targets: torch.Tensor) -> None:
    one = split_outputs(targets, [True] * 100)
    others = {
        "one was evaluated on test rows, the other on validation rows": dataclasses.replace(one, split="validation"),
        "their test rows differ": dataclasses.replace(one, texts_sha256={"mood": "1" * 64}),
        "they have no task in common: mood and genre, other": dataclasses.replace(
            one, labels=dict.fromkeys(("genre", "other"), one.labels["mood"])
        ),
        "the labels of task mood differ": split_outputs(1 - targets, [True] * 100),
    }
    assert {why_not_comparable(one, other): other for other in others.values()} == others
    renamed = dataclasses.replace(one, labels={"mood": Classes(("bad", "good"))})
    assert why_not_comparable(one, renamed) == "the labels of task mood differ"


def test_models_whose_rows_differ_for_one_task_are_not_compared(targets: torch.Tensor) -> None:
    one, other = (split_outputs(targets, [True] * 100, task) for task in ("mood", "genre"))
    both = dataclasses.replace(
        one,
        texts_sha256=one.texts_sha256 | other.texts_sha256,
        labels=one.labels | other.labels,
        targets=one.targets | other.targets,
    )
    changed = dataclasses.replace(both, texts_sha256=one.texts_sha256 | {"genre": "1" * 64})
    assert why_not_comparable(both, both) == ""
    assert why_not_comparable(both, changed) == "their test rows differ for task genre"


def test_one_digest_for_all_tasks_as_earlier_versions_wrote_it_is_read(targets: torch.Tensor) -> None:
    content = split_outputs(targets, [True] * 100).to_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["texts"] = "0" * 64
    written = json.dumps(header).encode()
    read = SplitOutputs.from_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :], name="a file")
    assert read.texts_sha256 == {"mood": "0" * 64}


def test_the_digest_of_texts_tells_their_order_and_their_bounds() -> None:
    lists = [["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a"]]
    assert len({digest_of_texts(texts) for texts in lists}) == len(lists)
    assert digest_of_texts(["a", "b"]) == digest_of_texts(["a", "b"])


def test_only_what_differs_is_listed() -> None:
    settings = [{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]
    assert differing(settings) == {"b": ["2", "3"], "c": [None, "4"]}


def test_a_metric_that_fails_leaves_no_difference(targets: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    def fail(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise PluginError("metric 'area' failed")

    outputs = outputs_with([True] * 100, targets)
    found = difference((ACCURACY, [outputs]), (Metric("area", fail), [outputs]), targets)
    assert found.value != found.value
    assert "no difference in metric area: metric 'area' failed" in caplog.text
