"""What a run reports of itself, and observers that pass over it."""

import pytest

from topwork.engine.observer import EncodingReport, Epoch, Observer


class Listener(Observer):
    """Overrides one method of four."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def test_an_observer_passes_over_what_it_does_not_override() -> None:
    observer = Listener()
    observer.begin("encoding (tokens)", 10)
    observer.advance(5)
    observer.encoded(EncodingReport(3, 3, 1.0, "memory", "training.store is off"))
    epoch = Epoch(1, {"training/loss": 0.5}, {"heads": 1e-3}, 100.0)
    observer.epoch(epoch)
    assert observer.epochs == [epoch]


@pytest.mark.parametrize(
    ("where", "encoded", "found"), [("store", 3, 7), ("store", 10, 0), ("memory", 10, 0), ("recomputed", 0, 0)]
)
def test_only_the_store_can_have_found_texts(where: str, encoded: int, found: int) -> None:
    report = EncodingReport(10, encoded, 2.0, where, "")  # type: ignore[arg-type]  # a parameter of this test
    assert report.found == found


def test_the_speed_of_encoding_is_known_where_something_was_encoded() -> None:
    assert EncodingReport(10, 4, 2.0, "store", "").texts_per_second == 2.0
    assert EncodingReport(10, 0, 0.0, "store", "").texts_per_second is None
