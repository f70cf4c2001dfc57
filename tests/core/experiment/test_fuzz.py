"""Whatever an experiment file holds, it is read or refused with the places of what is wrong, soon and in bounds."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import topwork
from topwork.errors import MAX_CHARACTERS, MAX_LINES
from topwork.registry import Registry, discover

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "data": {
        "rows": {
            "path": "rows.csv",
            "pattern": "(?P<text>.*)",
            "encoding": "utf-8",
            "limit": 5,
            "split": {"validation": 0.2, "test": 0.2, "method": "stratified", "by": "mood", "seed": 3},
        }
    },
    "backbone": {"kind": "minilm", "max_length": 32},
    "pooling": {"kind": "mean"},
    "tasks": {
        "mood": {
            "label": "mood",
            "labels": {"strip": True, "casefold": False, "normalize": "NFKC"},
            "source": "rows",
            "head": {"kind": "classification", "hidden": [8], "dropout": 0.1},
            "loss_weight": 2.0,
        }
    },
    "freeze": {"kind": "all_except", "patterns": ["layer.5.ffn"]},
    "optimizer": {"kind": "heads_and_backbone", "heads_lr": 1e-3},
    "training": {
        "epochs": 2,
        "patience": None,
        "monitor": "mean(validation/loss, validation/mood/loss)",
        "warmup": 0.1,
    },
    "tracking": {"enabled": False, "uri": "sqlite:///mlflow.db"},
    "study": {
        "search": {
            "optimizer.heads_lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "pooling": {"choices": [{"kind": "cls"}]},
        },
        "objective": ["loss", "mood/accuracy"],
        "seeds": [0, 1],
    },
}
TEXT = json.dumps(EXPERIMENT, indent=1)  # which is YAML


def paths(node: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value inside an experiment."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
    return [path for key, value in items for path in [(*at, key), *paths(value, (*at, key))]]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**17, max_value=10**60)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(
        ["kind", "mean(" * 300, "x" * 70_000, "\0", "\ud800", "~nobody/x", "undefined", "a.b.c", "[", "1e999"]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def changed(path: tuple[str | int, ...], value: Any, key: str | None) -> str:
    """The experiment with another value at a path, or with one more key beside it."""
    experiment = json.loads(TEXT)
    node = experiment
    for part in path[:-1]:
        node = node[part]
    last = path[-1]
    node[key if key is not None and isinstance(node, dict) else last] = value
    return json.dumps(experiment)


MARKS = st.sampled_from(
    [
        *[
            "&a ",
            "*a",
            "<<: *a",
            "{",
            "}",
            "[",
            "]",
            ": ",
            "- ",
            "? ",
            "!!int ",
            "!x ",
            "|\n",
            ">\n",
            "%YAML 1.1\n",
            "---\n",
        ],
        *[
            "'",
            '"',
            "\\",
            "\t",
            "\n",
            "\r",
            "\x01",
            "\x85",
            "\u2028",
            "\ufeff",
            "@",
            "`",
            "9" * 40,
            "9" * 5000,
            "0x",
            ".inf",
        ],
        *["[" * 60, "k" * 1100, "{a: " * 60, "name: ", "2020-01-01", "null", "1:30", "=", "<<", "...", "#", "1_0", ","],
    ]
)


def spliced(changes: list[tuple[int, int, str]]) -> str:
    """The experiment's text with pieces of it replaced by others."""
    text = TEXT
    for start, length, piece in changes:
        start %= len(text) + 1
        text = text[:start] + piece + text[start + length :]
    return text


FILES = st.one_of(
    st.builds(changed, st.sampled_from(paths(EXPERIMENT)), VALUES, st.none() | st.text(max_size=8)),
    st.builds(
        spliced,
        st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 30), MARKS | st.text(max_size=5)), max_size=5),
    ),
    st.lists(MARKS | st.text(max_size=5), max_size=25).map("".join),
)
DOTTED = st.sampled_from([".".join(map(str, path)) for path in paths(EXPERIMENT)]) | st.text(max_size=12)
OVERRIDES = st.lists(
    st.builds("{}={}".format, DOTTED, VALUES.map(json.dumps) | MARKS | st.text(max_size=8)) | st.text(max_size=8),
    max_size=2,
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.mark.slow
@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES, OVERRIDES)
@example("a: &a " + "[x, " * 9 + "x" + "]" * 9 + "\nb: [*a, *a]", [])
@example(TEXT, [])
def test_every_file_is_read_or_refused_with_places(
    write: Callable[..., Path], registry: Registry, text: str, overrides: list[str]
) -> None:
    path, started = write("e.yaml", text.encode("utf-8", "surrogatepass")), perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        experiment = topwork.load_experiment(path, overrides, registry=registry)
    except topwork.ConfigurationError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.startswith((f"{path}", "--set ", "... ")) for line in lines), lines
        assert len(lines) <= MAX_LINES
        assert len(str(error)) <= MAX_CHARACTERS
    else:
        json.dumps(experiment.dump(), allow_nan=False)
        assert (
            topwork.Experiment.model_validate(experiment.dump(), context={"registry": registry}).name == experiment.name
        )
    assert perf_counter() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
