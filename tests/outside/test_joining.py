"""A sampler and a loss weighting from other packages: installed, tested by their contracts, trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from outside_helpers import assert_keeps_contract, install, lines_of, run
from topwork.testing import LossWeightingContract, SamplerContract

pytestmark = pytest.mark.slow

CONTRACTS = {"topwork-curriculum": SamplerContract, "topwork-geometric": LossWeightingContract}

EXPERIMENT: dict[str, Any] = {
    "name": "outside",
    "data": {
        name: {"path": f"{name}.csv", "split": {"validation": 0.2, "test": 0.2, "method": "random"}}
        for name in ("animals", "colours")
    },
    "tasks": {
        "animal": {"label": "label", "source": "animals"},
        "colour": {"label": "label", "source": "colours"},
    },
    "backbone": {"kind": "minilm"},
    "pooling": {"kind": "mean"},
    "freeze": {"kind": "all"},
    "sampling": {"kind": "curriculum", "every": 2},
    "weighting": {"kind": "geometric"},
    "training": {"epochs": 4, "patience": None},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the packages, outside of the environment of these tests."""
    return install(list(CONTRACTS), tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("name", CONTRACTS)
def test_it_passes_the_contract_that_topwork_ships(installed: Path, tmp_path: Path, name: str) -> None:
    assert_keeps_contract(name, CONTRACTS[name], path=installed, folder=tmp_path)


@pytest.mark.parametrize("name", CONTRACTS)
def test_it_is_written_in_fewer_than_30_lines(name: str) -> None:
    assert lines_of(name) < 30


def test_they_train_and_the_plan_says_what_an_epoch_is(installed: Path, tmp_path: Path) -> None:
    for name, words in {"animals": ["cat", "dog"], "colours": ["red", "blue"]}.items():
        rows = [f"a {word} number {number},{word}" for number in range(20) for word in words]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "experiment.yaml").write_text(json.dumps(EXPERIMENT))
    plan = run("-m", "topwork.cli", "plan", "experiment.yaml", path=installed, folder=tmp_path)
    lines = [" ".join(line.split()) for line in plan.splitlines()]
    assert "epoch: 48 rows in 3 batches of up to 20" in lines
    assert "animals 24 24 to 48 1.00 to 2.00" in lines
    assert "colours 24 0 to 24 0.00 to 1.00" in lines
    trained = run("-m", "topwork.cli", "train", "experiment.yaml", "--output", "model", path=installed, folder=tmp_path)
    epochs = [line for line in trained.splitlines() if line.startswith("epoch ") and "loss" in line]
    assert ["colour: training loss" in line for line in epochs] == [False, False, True, True]
    assert all("animal: training loss" in line for line in epochs)
