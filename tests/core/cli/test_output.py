"""Results are printed whole and in full precision for other programs."""

import csv
import io
import json
import math

import pytest

from topwork.cli.format import Format
from topwork.cli.output import needs_ascii, result_alone, rows_of_estimates, write_csv, write_json
from topwork.cli.tables import console
from topwork.engine.evaluation.estimates import Estimate

THIRD = 1 / 3


def test_csv_reads_back_and_what_is_not_known_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv([{"name": "a, b", "value": THIRD}, {"name": "c", "value": math.nan, "reason": 'it said "no"'}])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        {"name": "a, b", "value": repr(THIRD), "reason": ""},
        {"name": "c", "value": "", "reason": 'it said "no"'},
    ]


def test_json_reads_back_and_what_is_not_known_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"rows": [{"value": THIRD}, {"value": math.nan}, {"value": math.inf}], "pair": (1, "\u00e9")})
    assert json.loads(capsys.readouterr().out) == {
        "rows": [{"value": THIRD}, {"value": None}, {"value": None}],
        "pair": [1, "\u00e9"],
    }


def test_json_is_ascii_where_standard_output_may_not_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, ascii in (("utf-8", False), ("UTF8", False), ("ascii", True), ("latin-1", True)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", stream)
        assert needs_ascii() == ascii
        write_json("\u00e9")
        stream.flush()
        assert stream.buffer.getvalue().isascii() == ascii  # type: ignore[attr-defined]


def test_estimates_have_a_row_for_each_metric() -> None:
    figures = {"metric": "f1", "value": 0.5, "low": 0.25, "high": 0.75, "rows": 9}
    one, several = Estimate(0.5, 0.25, 0.75, 9), Estimate(0.5, 0.25, 0.75, 9, seeds=3, sd=0.1)
    assert rows_of_estimates({"mood/f1": one, "tone/f1": several}) == [
        {"task": "mood", **figures, "sd": None, "seeds": 1},
        {"task": "tone", **figures, "sd": 0.1, "seeds": 3},
    ]


@pytest.mark.parametrize(("format", "out"), [(Format.TABLE, "note\n"), (Format.CSV, ""), (Format.JSON, "")])
def test_notes_go_to_standard_error_where_a_program_reads_the_result(
    capsys: pytest.CaptureFixture[str], format: Format, out: str
) -> None:
    with result_alone(format):
        console.print("note")
    said = capsys.readouterr()
    assert (said.out, said.err) == (out, "" if out else "note\n")
    console.print("later")
    assert capsys.readouterr().out == "later\n"
