"""What a run hands over cannot be changed."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from topwork.lab.result import Result


def test_a_result_is_what_it_was() -> None:
    result = Result("a-run", Path("model"), None, None, "test", {}, [], 1, {}, {}, [])
    with pytest.raises(FrozenInstanceError):
        result.best_epoch = 2  # type: ignore[misc]  # the point of the test
