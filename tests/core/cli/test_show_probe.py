"""``topwork probe`` prints a table of layers, and what is best on rows that had no part in measuring it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from probe_helpers import result_of
from topwork.cli.show_probe import show_layers

Command = Callable[..., tuple[int, str, str]]
QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
SMALL = [
    "--set", "data.reviews.limit=60", "--set", "training.epochs=1", "--set", "tracking.enabled=false",
    "--set", "data.reviews.split={validation: 0.2, test: 0.2}",
]  # fmt: skip


def test_layers_are_a_table_with_intervals_and_a_mark(capsys: pytest.CaptureFixture[str]) -> None:
    show_layers(result_of())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:7] == [
        "note: a warning",
        "a: macro_f1 on test rows by layer, means over 5 seeds",
        "layer cls 95 % interval mean 95 % interval",
        "embeddings 0.500 0.400 to 0.600 0.550 0.450 to 0.650",
        "layer.0 0.600 0.500 to 0.700 0.650* 0.550 to 0.750",
        "layer.1 0.700 0.600 to 0.800 0.750 0.650 to 0.850",
        "* best on the validation rows: mean of layer.0; on the test rows +0.030 (+0.010 to +0.050) against mean of "
        "layer.1",
    ]
    assert "* best on the validation rows: mean of layer.1" in lines
    assert lines[-2:] == ["30 trainings of 70 s together, in 50 s, 3 s of them to encode", "table: x/probe.csv"]


@pytest.mark.slow
def test_the_command_trains_on_every_layer(command: Command) -> None:
    code, out, _ = command("probe", QUICKSTART, *SMALL, "--workers", 1)
    assert code == 0
    assert "category: accuracy on test rows by layer, of one seed" in out.splitlines()
    assert "14 trainings of " in out
    _, out, _ = command("probe", QUICKSTART, *SMALL, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * 7 * 2
    _, out, _ = command("probe", QUICKSTART, *SMALL, "--format", "json")
    assert [float(row["value"]) for row in rows] == [row["value"] for row in json.loads(out)["probes"]]
