"""``topwork plugins`` lists what is installed, with defaults, and what is broken."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from start_up import install

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"


SMALL = ["--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false"]


def test_plugins_lists_every_shipped_kind_with_its_defaults(command: Command) -> None:
    code, out, _ = command("plugins")
    assert code == 0
    assert "heads_lr=0.001, backbone_lr=5e-05, weight_decay=0.01, no_decay=False" in out
    assert [line.split("  ")[0] for line in out.splitlines()].count("freeze strategy") == 9


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin whose module is not there."""
    info = tmp_path / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[topwork]\nbroken = not_there\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_plugins_ends_with_code_4_when_one_is_broken(command: Command, broken: None) -> None:
    code, out, error = command("plugins")
    assert code == 4
    assert "minilm" in out
    assert error.startswith("error: plugin 'broken' of package broken 0.1 is broken: ModuleNotFoundError: No module")


@pytest.mark.slow
def test_a_broken_plugin_that_is_not_needed_is_said_and_stops_nothing(
    command: Command, broken: None, caplog: pytest.LogCaptureFixture
) -> None:
    code, out, _ = command("plan", QUICKSTART)
    assert code == 0
    assert "what trains" in out
    assert "plugin 'broken' of package broken 0.1 is broken" in caplog.text


def test_plugins_are_listed_for_programs_too(command: Command) -> None:
    _, out, _ = command("plugins", "--format", "csv")
    _, other, _ = command("plugins", "--format", "json")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows == json.loads(other)
    assert {row["kind"] for row in rows if row["interface"] == "head"} >= {"binary", "classification"}


def test_thirty_more_plugins_are_listed(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        install(tmp_path, number)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = command("plugins", "--format", "json")
    assert code == 0
    kinds = {row["kind"]: row["package"] for row in json.loads(out)}
    assert [kinds[f"kind_{number}"] for number in range(30)] == [f"topwork-kind-{number}" for number in range(30)]
