"""Heads from other packages that read two texts apart, and words: installed, tested by their contract, trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from outside_helpers import assert_keeps_contract, install, lines_of, run
from topwork.testing import HeadContract

pytestmark = pytest.mark.slow

PACKAGES = ["topwork-relations", "topwork-bilstm"]

ANIMALS = ["cat", "dog", "horse", "bird"]
PAIRS = [f"a {a},the {b},{'same' if a == b else 'other'}" for a in ANIMALS for b in ANIMALS for _ in range(3)]
SENTENCES = [
    {"words": ["look", "a", animal, "there"][: 3 + n % 2], "tags": ["O", "O", "B-animal", "O"][: 3 + n % 2]}
    for n, animal in enumerate(ANIMALS * 6)
]
EXPERIMENT: dict[str, Any] = {
    "name": "outside",
    "data": {
        "pairs": {"path": "pairs.csv", "text": ["first", "second"]},
        "sentences": {"path": "sentences.jsonl", "words": "words"},
    },
    "tasks": {
        "alike": {"label": "label", "source": "pairs", "head": {"kind": "relation"}},
        "animals": {"label": "tags", "source": "sentences", "head": {"kind": "bilstm"}},
    },
    "backbone": {"kind": "minilm"},
    "pooling": {"kind": "mean"},
    "freeze": {"kind": "all"},
    "training": {"epochs": 30, "patience": None},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the packages, outside of the environment of these tests."""
    return install(list(PACKAGES), tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("name", PACKAGES)
def test_it_passes_the_contract_that_topwork_ships(installed: Path, tmp_path: Path, name: str) -> None:
    assert_keeps_contract(name, HeadContract, path=installed, folder=tmp_path)


@pytest.mark.parametrize("name", PACKAGES)
def test_it_is_written_in_fewer_than_40_lines(name: str) -> None:
    assert lines_of(name) < 40


def test_they_train_together_and_predict(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("\n".join(["first,second,label", *PAIRS]))
    (tmp_path / "sentences.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in SENTENCES))
    (tmp_path / "experiment.yaml").write_text(json.dumps(EXPERIMENT))
    topwork = ("-m", "topwork.cli")
    run(*topwork, "train", "experiment.yaml", "--output", "model", path=installed, folder=tmp_path)
    predict = (*topwork, "predict", "model", "--format", "csv")
    pair, words = run(*predict, "a dog\tthe dog", "look a bird", path=installed, folder=tmp_path).splitlines()[1:]
    assert pair.startswith("a dog\tthe dog,same,")
    assert "look/O a/O bird/B-animal" in words
