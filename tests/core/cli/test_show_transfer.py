"""``topwork transfer`` prints the matrix, what can be told from 0, and what chance alone would give."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from topwork.cli.show_transfer import show_matrix
from transfer_helpers import GAINS, result_of

Command = Callable[..., tuple[int, str, str]]
QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
SMALL = [
    "--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false",
    "--set", "data.reviews.split={validation: 0.2, test: 0.2}",
]  # fmt: skip


def test_gains_are_a_matrix_with_marks_and_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    show_matrix(result_of(GAINS))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "note: a warning",
        "gain over being trained alone, on test rows, means over 5 seeds",
        "task metric alone a b c all together",
        "a accuracy 0.500 +0.100* +0.010",
        "b accuracy 0.600 -0.100*",
        "c accuracy 0.700",
        "",
        "* what can be told from 0",
        "task with gain 95 % interval",
        "a b helps +0.100 +0.020 to +0.200",
        "b a hurts -0.100 -0.200 to -0.050",
        "1 help, 1 hurt, 1 cannot be told; of 3 intervals about 0.2 exclude 0 by chance alone",
        "with 5 seeds no two-sided sign-flip test over seeds can be significant at 5 %: its least p is 2/2^5 = 0.062; "
        "six seeds are the fewest",
        "35 trainings of 70 s together, in 50 s, 3 s of them to encode",
        "table: x/transfer.csv",
    ]


@pytest.mark.slow
def test_the_command_trains_alone_and_in_pairs(command: Command) -> None:
    code, out, _ = command("transfer", QUICKSTART, *SMALL, "--workers", 1)
    assert code == 0
    assert "gain over being trained alone, on test rows, of one seed" in out.splitlines()
    assert "3 trainings of " in out
    _, out, _ = command("transfer", QUICKSTART, *SMALL, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["task"], row["with"]) for row in rows] == [("sentiment", "category"), ("category", "sentiment")]
    _, out, _ = command("transfer", QUICKSTART, *SMALL, "--format", "json")
    assert [float(row["gain"]) for row in rows] == [row["gain"] for row in json.loads(out)["matrix"]]
