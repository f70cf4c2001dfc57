"""Every row is in exactly one split, and the splits are as large as they should be."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topwork.data.splits import divide
from topwork.errors import DataError
from topwork.experiment.source import Split

METHODS = ["in_order", "random", "stratified"]
FRACTIONS = st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.29, 0.3, 0.4])


def split_of(method: str, **options: Any) -> Split:
    by = {"by": "label"} if method == "stratified" else {}
    return Split.model_validate({"method": method, **by, **options})


def labels_for(count: int) -> list[str]:
    return ["abbccc"[number % 6] for number in range(count)]


def parts(count: int, split: Split) -> dict[str, list[int]]:
    divided = divide(count, split, labels_for(count) if split.by else None)
    return {name: numbers.tolist() for name, numbers in divided.items()}


@pytest.mark.slow
@given(st.integers(1, 300), FRACTIONS, FRACTIONS, st.sampled_from(METHODS), st.integers(0, 5))
def test_splits_are_disjoint_complete_and_sorted(
    count: int, validation: float, test: float, method: str, seed: int
) -> None:
    assume(all(not fraction or count * fraction >= 1.001 for fraction in (validation, test)))
    divided = parts(count, split_of(method, validation=validation, test=test, seed=seed))
    assert sorted(number for numbers in divided.values() for number in numbers) == list(range(count))
    assert all(numbers == sorted(numbers) and numbers for numbers in divided.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("count", "validation", "test", "sizes"),
    [
        (500, 0.0, 0.2, {"train": 400, "test": 100}),
        (500, 0.15, 0.25, {"train": 300, "validation": 75, "test": 125}),
        (10, 0.19, 0.19, {"train": 8, "validation": 1, "test": 1}),
        (10, 0.0, 0.0, {"train": 10}),
        (7, 0.5, 0.0, {"train": 4, "validation": 3}),
        (2, 0.0, 0.5, {"train": 1, "test": 1}),
    ],
)
def test_sizes_are_rounded_down_and_train_takes_the_rest(
    method: str, count: int, validation: float, test: float, sizes: dict[str, int]
) -> None:
    divided = parts(count, split_of(method, validation=validation, test=test))
    assert {name: len(numbers) for name, numbers in divided.items()} == sizes


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_percentage_of_100_rows_is_that_many_rows(percent: int) -> None:
    assert len(parts(100, split_of("in_order", test=percent / 100))["test"]) == percent


def test_in_order_takes_train_then_validation_then_test() -> None:
    assert parts(10, split_of("in_order", validation=0.2, test=0.3)) == {
        "train": [0, 1, 2, 3, 4],
        "validation": [5, 6],
        "test": [7, 8, 9],
    }


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_the_seed_decides_the_shuffle(method: str) -> None:
    first, again, other = (parts(200, split_of(method, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_random_split_is_shuffled() -> None:
    assert parts(200, split_of("random", test=0.2))["test"] != list(range(160, 200))


def test_the_seed_does_not_touch_numpys_global_generator() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    parts(50, split_of("random"))
    assert np.random.random() == expected


@given(
    st.lists(st.integers(5, 200), min_size=1, max_size=4),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.integers(0, 3),
    st.randoms(),
)
def test_a_stratified_split_keeps_proportions(counts: list[int], test: float, seed: int, order: Any) -> None:
    labels = [f"label{number}" for number, count in enumerate(counts) for _ in range(count)]
    assume(len(labels) * test >= 1)
    order.shuffle(labels)
    divided = divide(len(labels), split_of("stratified", test=test, seed=seed), labels)
    found = Counter(labels[number] for number in divided["test"])
    share = len(divided["test"]) / len(labels)
    # A cut divides each stratum to within half a row, and the rounding of all strata adds up at most.
    assert all(abs(found[label] - count * share) <= (len(counts) + 1) / 2 for label, count in Counter(labels).items())


def test_every_split_of_a_stratified_one_has_the_proportions() -> None:
    labels = ["rare"] * 20 + ["common"] * 180
    divided = divide(200, split_of("stratified", validation=0.2, test=0.3), labels)
    shares = {name: Counter(labels[number] for number in numbers) for name, numbers in divided.items()}
    assert shares == {
        "train": {"rare": 10, "common": 90},
        "validation": {"rare": 4, "common": 36},
        "test": {"rare": 6, "common": 54},
    }


def test_many_rare_labels_get_their_share_of_the_test_rows() -> None:
    labels = [f"rare{number % 20}" for number in range(60)] + ["common"] * 60
    tested = divide(120, split_of("stratified", test=0.2), labels)["test"]
    assert 10 <= sum(labels[number] != "common" for number in tested) <= 14


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (4, {"test": 0.2}, "0.2 of 4 rows leaves the test split empty; raise the fraction or the limit"),
        (9, {"validation": 0.1}, "0.1 of 9 rows leaves the validation split empty; raise the fraction or the limit"),
        (1, {"test": 0.9}, "0.9 of 1 rows leaves the test split empty; raise the fraction or the limit"),
    ],
)
def test_a_split_that_would_be_empty_is_refused(method: str, count: int, options: dict[str, float], words: str) -> None:
    with pytest.raises(DataError) as caught:
        parts(count, split_of(method, **options))
    assert str(caught.value) == words
