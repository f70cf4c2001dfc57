"""What a run hands over cannot be changed, and nobody has to watch it."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.lab.result import Result


def test_a_result_is_what_it_was() -> None:
    result = Result("a-run", Path("model"), None, None, "test", {}, [], 1, [])
    with pytest.raises(FrozenInstanceError):
        result.best_epoch = 2  # type: ignore[misc]  # the point of the test


def test_an_observer_that_overrides_nothing_takes_every_call() -> None:
    observer = Observer()
    observer.begin("encoding", 10)
    observer.advance(5)
    observer.encoded(EncodingReport(texts=1, encoded=1, seconds=1.0, where="memory", note=""))
    observer.epoch(Epoch(1, {}, {}, 1.0))
