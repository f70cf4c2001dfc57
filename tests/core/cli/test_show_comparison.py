"""``topwork compare`` prints settings that differ, every metric, and each difference with its interval."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from run_helpers import small
from topwork.cli.show_comparison import describe_difference, describe_estimate, describe_seeds
from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.runs import train

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False], ids=["given", "in the variable"])
def test_the_command_prints_the_comparison(
    command: Command, installed: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    first, second = (
        train(small(f"tracking.uri={store_uri}", f"name={name}", f"optimizer.heads_lr={rate}"), output=name)
        for name, rate in (("first", "0.001"), ("second", "0.02"))
    )
    if not given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    code, printed, _ = command("compare", first.name, second.name, *(["--uri", store_uri] if given else []))
    assert code == 0
    assert [line.split() for line in printed.splitlines() if line.startswith("optimizer.")] == [
        ["optimizer.heads_lr", "0.001", "0.02"]
    ]
    assert "metrics on the same 20 test rows" in printed
    assert f"difference from {first.name}" in printed
    value = second.estimates["sentiment/accuracy"].value - first.estimates["sentiment/accuracy"].value
    assert f"{value:+.3f}" in printed
    runs = [first.name, second.name, *(["--uri", store_uri] if given else [])]
    rows = list(csv.DictReader(io.StringIO(command("compare", *runs, "--format", "csv")[1])))
    (row,) = (row for row in rows if (row["metric"], row["run"]) == ("sentiment/accuracy", second.name))
    assert float(row["difference"]) == pytest.approx(value)
    compared = json.loads(command("compare", *runs, "--format", "json")[1])
    assert compared["settings"]["optimizer.heads_lr"] == {first.name: "0.001", second.name: "0.02"}
    assert len(compared["metrics"]) == len(rows) == 12


def test_an_estimate_is_written_with_its_interval_where_it_has_one() -> None:
    assert describe_estimate(Estimate(0.5, 0.25, 0.75, 20)) == "0.500 (0.250 to 0.750)"
    assert describe_estimate(Estimate(0.5, 0.25, 0.75, 20, seeds=3, sd=0.0123)) == "0.500 (0.250 to 0.750), sd 0.012"
    assert describe_estimate(Estimate(1.0, float("nan"), float("nan"), 20)) == "1.000"
    assert describe_estimate(Estimate(math.nan, math.nan, math.nan, 20)) == "undefined"


def test_a_difference_is_written_with_its_sign_and_p_where_it_has_one() -> None:
    assert describe_difference(Difference(0.1, -0.05, 0.2, 0.25)) == ("+0.100", "-0.050 to +0.200", "0.250")
    assert describe_difference(Difference(-0.1, -0.2, 0.0, None, seeds=3)) == ("-0.100", "-0.200 to +0.000", "")
    assert describe_difference(Difference(math.nan, math.nan, math.nan, None)) == ("", "", "")


def test_several_seeds_are_said() -> None:
    assert describe_seeds(1) == ""
    assert describe_seeds(5) == ", each figure the mean over 5 seeds"
