"""Queues of trials that need no experiment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_helpers import BASELINE, GRID, GRID_BASELINE, RATES, OpenQueue, empty_database, searched, settings
from topwork.experiment.study import Dimension
from topwork.lab.study.storage import close, open_storage
from topwork.lab.study.trial_queue import TrialQueue, open_trial_queue


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a database without a study."""
    (tmp_path / "study.db").write_bytes(empty_database())
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def open_queue(url: str) -> Iterator[OpenQueue]:
    """Open the same study, anew each time, as another process would."""
    storages = []

    def open_it(
        *,
        identity: dict[str, str] | None = None,
        maximize: tuple[bool, ...] = (False,),
        dimensions: dict[str, Dimension] = RATES,
        baseline: dict[str, Any] = BASELINE,
        begin_with_it: bool = True,
        **changed: Any,
    ) -> TrialQueue:
        storages.append(open_storage(url))
        return open_trial_queue(
            storages[-1],
            "pair",
            settings(search={f"x.{name}": one for name, one in dimensions.items()}, baseline=begin_with_it, **changed),
            searched(dimensions, baseline),
            identity=identity or {"sha256 of the data": "abc"},
            maximize=maximize,
            epochs=4,
        )

    yield open_it
    for storage in storages:
        close(storage)


@pytest.fixture
def open_grid(open_queue: OpenQueue) -> OpenQueue:
    """The same for an exhaustive search of six points."""

    def open_it(**changed: Any) -> TrialQueue:
        return open_queue(**{"dimensions": GRID, "baseline": GRID_BASELINE, "sampler": "grid", "trials": 100} | changed)

    return open_it
