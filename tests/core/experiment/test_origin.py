"""A message about a setting points at where it was written: the file, or the command line."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from topwork.experiment.origin import Origin
from topwork.experiment.yaml_text import KeyPath, read_yaml

TEXT = "training:\n  epochs: 3\nfreeze:\n  patterns: [a, b]\n"


def origin(overrides: Mapping[KeyPath, str] | None = None) -> Origin:
    return Origin(Path("e.yaml"), TEXT, read_yaml(TEXT).places, overrides or {})


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("training", "epochs"), "e.yaml:2:3: training.epochs"),
        (("freeze", "patterns", 1), "e.yaml:4:17: freeze.patterns.1"),
        (("training",), "e.yaml:1:1: training"),
        ((), "e.yaml:1:1"),
    ],
)
def test_what_is_written_has_the_place_where_it_stands(path: KeyPath, place: str) -> None:
    assert origin().locate(*path) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("freeze", "kind"), "e.yaml:3:1: freeze.kind"),
        (("freeze", "patterns", 7), "e.yaml:4:3: freeze.patterns.7"),
        (("optimizer", "heads_lr"), "e.yaml:1:1: optimizer.heads_lr"),
    ],
)
def test_what_is_not_written_has_the_place_of_the_section_around_it(path: KeyPath, place: str) -> None:
    assert origin().locate(*path) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("training", "epochs"), "--set training={epochs: 5}: training.epochs"),
        (("training", "seed"), "--set training={epochs: 5}: training.seed"),
        (("training",), "--set training={epochs: 5}: training"),
        (("freeze", "kind"), "e.yaml:3:1: freeze.kind"),
    ],
)
def test_what_was_set_is_said_instead_of_a_place(path: KeyPath, place: str) -> None:
    assert origin({("training",): "training={epochs: 5}"}).locate(*path) == place


def test_a_section_of_which_a_part_was_set_has_its_place_and_that_part() -> None:
    where = origin({("training", "epochs"): "training.epochs=5", ("training", "seed"): "training.seed=1"})
    assert where.locate("training") == "e.yaml:1:1 with --set training.epochs=5 training.seed=1: training"


def test_a_section_that_was_only_set_has_no_place_in_the_file() -> None:
    where = origin({("optimizer", "heads_lr"): "optimizer.heads_lr=1"})
    assert where.locate("optimizer") == "--set optimizer.heads_lr=1: optimizer"


def test_an_experiment_made_in_python_has_paths_and_no_places() -> None:
    assert Origin().locate("training", "epochs") == "training.epochs"
    assert Origin().locate() == "experiment"


@pytest.mark.parametrize(
    ("path", "overridden"),
    [
        (("training",), True),
        (("training", "epochs"), True),
        (("freeze", "patterns", 0), True),
        (("freeze", "patterns"), False),
        (("freeze",), False),
        ((), False),
    ],
)
def test_a_value_is_overridden_by_itself_or_with_what_is_around_it(path: KeyPath, overridden: bool) -> None:
    where = origin({("training",): "training={}", ("freeze", "patterns", 0): "freeze.patterns.0=x"})
    assert where.is_overridden(*path) == overridden
