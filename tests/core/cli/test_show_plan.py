"""``topwork plan`` says what would train, where the cut is, what it costs, and whether the store serves."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from topwork.cli.show_plan import describe_optimizer, describe_weighting
from topwork.experiment.schema import Training
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"


SMALL = ["--set", "data.reviews.limit=100", "--set", "training.epochs=1", "--set", "tracking.enabled=false"]


@pytest.mark.slow
def test_plan_shows_groups_cut_and_cost(command: Command) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", "pooling.kind=cls")
    assert code == 0
    assert ["backbone", "6", "1,182,336", "5e-05", "0.01"] in [line.split() for line in out.splitlines()]
    assert "cut: before layer.5.ffn; the 12 stages left of it run once" in out
    assert "kept: first token of each text, 1.5 kB per text, 1.1 MB in all" in out
    assert "111.6 times less arithmetic per epoch" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        ("all", "cut: after the pooling; the 13 stages left of it run once"),
        ("none", "cut: before the first stage, since it trains; every epoch runs the whole backbone"),
    ],
)
def test_plan_says_where_the_cut_is_when_all_or_nothing_is_frozen(command: Command, freeze: str, said: str) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", f"freeze={{kind: {freeze}}}")
    assert code == 0
    assert said in out


@pytest.mark.slow
def test_plan_says_what_the_store_has(command: Command) -> None:
    line = re.compile(r"^store: .*$", re.MULTILINE)
    _, before, _ = command("plan", QUICKSTART, *SMALL)
    code, _, _ = command("train", QUICKSTART, *SMALL)
    assert code == 0
    _, after, _ = command("plan", QUICKSTART, *SMALL)
    _, more, _ = command("plan", QUICKSTART, *SMALL, "--set", "data.reviews.limit=110")
    (empty,), (full,), (partly,) = line.findall(before), line.findall(after), line.findall(more)
    assert re.fullmatch(r"store: 0 of 100 distinct texts are there; 100 will be encoded, [\d.]+ MB", empty)
    assert full == "store: 100 of 100 distinct texts are there"
    assert re.fullmatch(r"store: 100 of 110 distinct texts are there; 10 will be encoded, [\d.]+ kB", partly)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("training.store=off", "store: not used: training.store is off"),
        ("freeze={kind: none}", "store: not used: the first stage trains, so there is nothing to keep"),
        ("freeze={kind: last_layers, count: 6}", "store: not used: it would not pay: with 0 operations per byte"),
    ],
)
def test_plan_says_why_the_store_is_not_used(command: Command, setting: str, said: str) -> None:
    code, out, _ = command("plan", QUICKSTART, "--set", setting)
    assert code == 0
    assert said in out


@pytest.mark.slow
def test_plan_writes_nothing(command: Command, tmp_path: Path) -> None:
    command("plan", QUICKSTART)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_plan_shows_a_table_for_each_phase(command: Command) -> None:
    freeze = "freeze={kind: gradual, start: 1, every: 3, most: 3}"
    code, out, _ = command("plan", QUICKSTART, "--set", freeze)
    assert code == 0
    headings = ["what trains from epoch 1", "what trains from epoch 4", "what trains from epoch 7", "tasks"]
    places = [out.index(heading) for heading in headings]
    assert places == sorted(places)
    tables = [out[start:end].split() for start, end in pairwise(places)]
    sizes = [table[table.index("backbone") + 1 :][:2] for table in tables]
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    assert sizes == [[str(16 * layers), f"{layer * layers:,}"] for layers in (1, 2, 3)]
    frozen = [int(table[table.index("frozen") + 1].replace(",", "")) for table in tables]
    assert [more - fewer for fewer, more in pairwise(frozen)] == [-layer, -layer]
    for first, suffix, stages in ((1, 5, 11), (4, 4, 9), (7, 3, 7)):
        said = out[out.index(f"\nfrom epoch {first}:\n") :].splitlines()
        assert said[2] == f"cut: before layer.{suffix}.attention; the {stages} stages left of it run once"
        assert said[5].startswith("store: 0 of ")


@pytest.mark.slow
def test_a_plan_is_printed_for_programs_too(command: Command) -> None:
    _, out, _ = command("plan", QUICKSTART, *SMALL, "--format", "csv")
    _, other, _ = command("plan", QUICKSTART, *SMALL, "--format", "json")
    rows, plan = list(csv.DictReader(io.StringIO(out))), json.loads(other)
    assert [(row["group"], float(row["learning_rate"])) for row in rows] == [("heads", 1e-3), ("backbone", 5e-5)]
    assert sum(int(row["numbers"]) for row in rows) == sum(
        math.prod(plan["shapes"][name]) for group in plan["phases"][0]["groups"] for name in group["parameters"]
    )


@pytest.mark.slow
def test_plan_says_what_is_kept_of_words_and_which_are_not_read(command: Command, tmp_path: Path) -> None:
    rows = [
        {"words": [f"w{n}", "x"] * (10 if n == 7 else 1), "tags": "A B " * (10 if n == 7 else 1)} for n in range(10)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    experiment = {
        "name": "words",
        "data": {"rows": {"path": "rows.jsonl", "words": "words"}},
        "backbone": {"kind": "minilm", "max_length": 14},
        "freeze": {"kind": "all"},
        "tasks": {"tag": {"label": "tags", "head": {"kind": "tagging"}}},
    }
    (tmp_path / "words.yaml").write_text(json.dumps(experiment))
    code, out, _ = command("plan", tmp_path / "words.yaml")
    assert code == 0
    read = 9 * 2 + 8  # "w7" is two tokens, "x" one, and two of 14 are special
    assert f"kept: the first token of {read} words, 4.0 kB per text, 39.9 kB in all" in out
    assert (
        "warning: 1 of 10 texts are longer than the backbone's max_length and were truncated; 12 of their words are "
        "not read, so they are neither trained nor measured"
    ) in out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "optimizer: AdamW; learning rates constant"),
        (
            {"optimizer": "SGD", "optimizer_options": {"momentum": 0.9, "nesterov": True}, "schedule": "cosine"},
            "optimizer: SGD with momentum 0.9, nesterov True; learning rates scaled by cosine",
        ),
        ({"warmup": 0.1}, "optimizer: AdamW; learning rates constant after a warm-up over 0.1 of all steps"),
    ],
)
def test_the_optimizer_and_its_schedule_are_said(settings: dict[str, Any], said: str) -> None:
    assert describe_optimizer(Training(**settings)) == said


SENTENCE = "a sentence that is longer than a dozen of the tokens which the backbone reads at once"


def small_file(folder: Path, **sections: object) -> Path:
    """Write an experiment on ten texts, some of them long."""
    rows = [{"text": f"{number} {SENTENCE if number % 2 else ''}", "kind": "xy"[number % 2]} for number in range(10)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    experiment = {
        "name": "small",
        "data": {"rows": {"path": "rows.jsonl"}},
        "backbone": {"kind": "minilm", "max_length": 12},
        "freeze": {"kind": "all"},
        "tasks": {"kind": {"label": "kind"}},
    }
    file = folder / "small.yaml"
    file.write_text(json.dumps(experiment | sections))
    return file


@pytest.mark.slow
def test_plan_says_which_texts_are_divided_into_windows(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("plan", small_file(tmp_path, window={"stride": 2}))
    assert code == 0
    assert "5 texts are divided, 20 windows in all, 8.0 tokens per window" in out
    assert "kept: pooled of each window, 1.5 kB per window" in out
    assert "distinct windows are there" in out
    assert "truncated" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        (
            {"pooling": {"kind": "cls", "layer": 2}},
            [
                "cut: after the pooling; the 7 stages left of it run once",
                "not run: layer.3.attention to layer.5.ffn, which the pooling does not read",
                "kept: pooled of each text, 1.5 kB per text, 15.4 kB in all",
            ],
        ),
        (
            {"pooling": {"kind": "layer_mix"}},
            [
                "cut: after the pooling of each layer, before they are combined; the 13 stages left of it run once",
                "kept: the pooled vectors of 4 layers of each text, 6.1 kB per text, 61.4 kB in all",
            ],
        ),
        (
            {
                "pooling": {"kind": "layer_mix", "layers": [1, 5]},
                "freeze": {"kind": "all_except", "patterns": ["layer.5.ffn"]},
            },
            [
                "cut: before layer.5.ffn; the 12 stages left of it run once",
                "kept: first token and the pooled vector of a layer of each text, 3.1 kB per text, 30.7 kB in all",
            ],
        ),
    ],
    ids=["an earlier layer", "several frozen layers", "a frozen layer and one that trains"],
)
def test_plan_says_what_is_kept_of_layers(
    command: Command, tmp_path: Path, sections: dict[str, object], wanted: list[str]
) -> None:
    code, out, _ = command("plan", small_file(tmp_path, **sections))
    assert code == 0
    assert [line for line in wanted if line not in out.splitlines()] == []


@pytest.mark.slow
def test_what_is_to_train_behind_the_layer_that_is_read_is_refused(command: Command, tmp_path: Path) -> None:
    file = small_file(tmp_path, pooling={"kind": "cls", "layer": 2}, freeze={"kind": "last_layers", "count": 1})
    code, _, error = command("plan", file)
    assert code == 2
    assert (
        "freeze: layer.5.attention is to train, but the pooling reads nothing behind layer.2.ffn, so no gradient would "
        "reach it; freeze it, or let the pooling read a later layer"
    ) in error


@pytest.mark.parametrize(
    ("weighting", "said"),
    [
        (TorchJdConfig(aggregator="UPGrad"), "each step goes back through what tasks share up to 3 times"),
        (TorchJdConfig(scalarizer="FAMO"), "each step computes the losses of its batch again"),
        (FixedConfig(), ""),
    ],
    ids=["gradients", "losses after the step", "losses"],
)
def test_what_a_weighting_costs_is_said(weighting: LossWeightingConfig, said: str) -> None:
    assert describe_weighting(weighting.build(["a", "b", "c"]), 3).startswith(said)
    assert bool(said) == bool(describe_weighting(weighting.build(["a", "b", "c"]), 3))
