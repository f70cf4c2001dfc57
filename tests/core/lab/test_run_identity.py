"""What must be the same where a run goes on, and what may change."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from run_helpers import small
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.lab.run_identity import check_same, code_of, identity_of_run, kinds_of
from topwork.registry import discover

pytestmark = pytest.mark.filterwarnings("error")

BEFORE = {
    "training.epochs": "4",
    "training.patience": "2",
    "training.stop": "together",
    "training.schedule": "constant",
    "training.warmup": "0.0",
    "training.batch_size": "16",
    "sha256 of the data": "abc",
    "plan": "def",
    "plugin head binary": "topwork 1, code abc",
    "numerics: device": "cpu x86_64 AVX2",
    "numerics: threads": "2",
}


def check(done: int | None = 2, *, allow_inexact: bool = False, **changes: Any) -> tuple[list[str], list[str]]:
    """Compare with what was begun; ``__`` stands for a dot in the names of changes."""
    now = BEFORE | {name.replace("__", "."): value for name, value in changes.items()}
    return check_same(BEFORE, now, done, allow_inexact=allow_inexact)


def test_nothing_has_changed() -> None:
    assert check() == ([], [])


@pytest.mark.parametrize(
    "changes",
    [{"training__epochs": "9"}, {"training__patience": "7"}, {"training__epochs": "2"}],
)
def test_what_may_change_is_told(changes: dict[str, str]) -> None:
    ((told,), inexact) = check(**changes)
    ((name, value),) = changes.items()
    assert told == f"{name.replace('__', '.')}: {BEFORE[name.replace('__', '.')]} then, {value} now"
    assert inexact == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training__epochs": "1"}, "training.epochs: 4 then, 1 now"),  # two are done
        ({"training__epochs": "9", "training__schedule": "linear"}, "training.schedule: constant then, linear now"),
        ({"training__epochs": "9", "training__warmup": "0.1"}, "training.warmup: 0.0 then, 0.1 now"),
        ({"training__batch_size": "8"}, "training.batch_size: 16 then, 8 now"),
        ({"sha256 of the data": "xyz"}, "sha256 of the data: abc then, xyz now"),
        ({"plan": "xyz"}, "plan: def then, xyz now"),
        ({"training__epochs": "9", "plan": "xyz"}, "training.epochs: 4 then, 9 now"),  # which gives other phases
        ({"training__patience": "1"}, "training.patience: 2 then, 1 now"),
        ({"training__patience": "None"}, "training.patience: 2 then, None now"),
        ({"tasks__a__patience": "3"}, "tasks.a.patience: nothing then, 3 now"),
    ],
)
def test_what_may_not_change_is_refused(changes: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(**changes, allow_inexact=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == "this run was begun with other settings:"
    assert line in lines
    assert lines[-1] == "change these back to go on, or give another --output to train anew"


def test_epochs_of_a_schedule_that_ends_with_them_may_not_change() -> None:
    before = BEFORE | {"training.schedule": "cosine"}
    with pytest.raises(ConfigurationError, match=r"training\.epochs: 4 then, 9 now"):
        check_same(before, before | {"training.epochs": "9"}, 2, allow_inexact=False)


def test_what_follows_from_a_setting_is_not_listed_beside_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(training__batch_size="8", plan="xyz")
    assert "plan" not in str(caught.value)


def test_patience_of_each_task_may_not_change() -> None:
    before = BEFORE | {"training.stop": "per_task"}
    with pytest.raises(ConfigurationError, match=r"training\.patience: 2 then, 3 now"):
        check_same(before, before | {"training.patience": "3"}, 2, allow_inexact=False)


def test_the_code_of_a_whole_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    for name in ("__init__.py", "other.py"):
        (package / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("some_package")
    digests = []
    for text in ("", "", "x = 1"):
        (package / "other.py").write_text(text)
        code_of.cache_clear()
        digests.append(code_of("some_package"))
    assert digests[0] == digests[1] != digests[2]
    assert code_of("nowhere_to_be_found") == ""
    code_of.cache_clear()


def test_where_a_training_of_the_run_is_finished_no_setting_may_change() -> None:
    with pytest.raises(ConfigurationError, match=r"training\.patience: 2 then, 3 now"):
        check(None, training__patience="3")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"numerics: threads": "4"}, "numerics: threads: 2 then, 4 now"),
        ({"plugin head binary": "topwork 2, code abc"}, "plugin head binary: topwork 1, code abc then, topwork 2"),
        ({"numerics: device": "NVIDIA"}, "NVIDIA may add in another order each time"),
    ],
)
def test_what_decides_bits_is_refused_unless_that_is_allowed(changes: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(**changes)
    assert why in str(caught.value)
    assert "go on all the same with --allow-inexact" in str(caught.value)
    allowed, inexact = check(**changes, allow_inexact=True)
    assert allowed == []
    assert why in "\n".join(inexact)


@pytest.mark.slow
def test_the_identity_of_a_run_is_the_same_each_time_and_another_for_another_seed() -> None:
    def identity(*settings: str) -> dict[str, str]:
        experiment = small("tracking.enabled=false", *settings)
        return identity_of_run(experiment, prepare(experiment), discover(), torch.device("cpu"))

    first = identity()
    assert first == identity("training.checkpoint_minutes=1.0", "training.store=off", "name=other")
    other = identity("training.seed=5")
    assert {name for name in first if first[name] != other[name]} == {"training.seed", "sha256 of the weights"}
    assert ", code " in first["plugin head binary"]


def test_every_plugin_of_an_experiment_is_known() -> None:
    assert kinds_of(small("freeze={kind: gradual}")) == [
        ("backbones", "tiny"),
        ("poolings", "mean"),
        ("freeze_strategies", "gradual"),
        ("optimizer_groupings", "heads_and_backbone"),
        ("samplers", "proportional"),
        ("loss_weightings", "fixed"),
        ("heads", "binary"),
        ("heads", "classification"),
    ]


def test_another_number_of_processes_may_give_other_bits() -> None:
    several = BEFORE | {"numerics: processes": "2"}
    for before, now, said in ((several, BEFORE, "2 then, 1 now"), (BEFORE, several, "1 then, 2 now")):
        with pytest.raises(ConfigurationError, match=f"numerics: processes: {said}\nchange that back, or go on"):
            check_same(before, now, 2, allow_inexact=False)
        assert check_same(before, now, 2, allow_inexact=True) == ([], [f"numerics: processes: {said}"])
