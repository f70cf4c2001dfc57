"""An open run in a fresh MLflow store."""

from collections.abc import Iterator

import pytest

from run_helpers import open_small_store
from topwork.lab.tracking.run_log import RunLog, log_run


@pytest.fixture
def log(store_uri: str) -> Iterator[RunLog]:
    """The log of a run that has begun."""
    with log_run(open_small_store(store_uri), "a-run") as log:
        yield log
