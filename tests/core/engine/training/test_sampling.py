"""What an epoch takes of each source, and in which batches."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from topwork.engine.training.sampling import Sampling, divide, resolve_sampling
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.schema import Training
from topwork.interfaces.sampler import SamplerConfig
from topwork_plugins.samplers.proportional import ProportionalConfig
from topwork_plugins.samplers.uniform import UniformConfig
from topwork_plugins.samplers.weighted import WeightedConfig

SIZES = {"large": 400, "middle": 40, "small": 3}
KINDS = pytest.mark.parametrize("batches", ["mixed", "single", "in_turn"])
SHUFFLE = pytest.mark.parametrize("shuffle", [False, True])


def sampled(config: SamplerConfig, sizes: Mapping[str, int] = SIZES, epochs: int = 6) -> Sampling:
    return resolve_sampling(config, sizes, epochs, where="x.yaml:3:1: sampling")


def rows_of(sampling: Sampling, epoch: int, **settings: Any) -> Tensor:
    return torch.cat(list(sampling.batches_of(epoch, Training(**settings))))


def sources(rows: Tensor) -> list[int]:
    return torch.bucketize(rows, torch.tensor([400, 440]), right=True).tolist()


def test_without_shuffling_rows_come_in_the_order_of_the_file() -> None:
    assert rows_of(sampled(ProportionalConfig(), {"a": 5}), 3, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_without_shuffling_each_source_keeps_the_order_of_its_file() -> None:
    order = rows_of(sampled(ProportionalConfig(), {"a": 6, "b": 3}), 1, shuffle=False).tolist()
    assert order == [0, 6, 1, 2, 7, 3, 4, 8, 5]


@KINDS
def test_shuffling_gives_each_epoch_and_seed_an_order_of_its_own(batches: Any) -> None:
    sampling = sampled(ProportionalConfig(batches=batches))
    orders = [rows_of(sampling, epoch, shuffle=True, seed=seed).tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert all(sorted(one) == list(range(443)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert rows_of(sampling, 1, shuffle=True).tolist() == orders[0]


@SHUFFLE
def test_rows_of_several_sources_come_in_proportion(shuffle: bool) -> None:
    order = rows_of(sampled(ProportionalConfig()), 1, shuffle=shuffle)
    assert sorted(order.tolist()) == list(range(443))
    shares = [sources(half).count(1) for half in order.tensor_split(2)]
    assert min(shares) >= (20 if not shuffle else 10)


@KINDS
@SHUFFLE
def test_no_row_comes_again_before_all_others_of_its_source_did(batches: Any, shuffle: bool) -> None:
    sampling = sampled(WeightedConfig(weights={"large": 1.0, "middle": 1.0, "small": 0.02}, batches=batches))
    taken: list[int] = []
    for epoch in range(1, 7):
        rows = rows_of(sampling, epoch, shuffle=shuffle, batch_size=16)
        assert len(rows) == 443
        taken += rows.tolist()
    for first, last in ((0, 400), (400, 440), (440, 443)):
        of_source = [row for row in taken if first <= row < last]
        passes = [of_source[start : start + last - first] for start in range(0, len(of_source), last - first)]
        assert all(len(set(one)) == len(one) for one in passes)


@KINDS
@SHUFFLE
def test_batches_have_the_size_that_is_set_and_steps_are_counted(batches: Any, shuffle: bool) -> None:
    sampling = sampled(UniformConfig(batches=batches))
    for epoch, steps in enumerate(sampling.steps(16), 1):
        found = sampling.batches_of(epoch, Training(batch_size=16, shuffle=shuffle))
        assert len(found) == steps
        assert all(0 < len(rows) <= 16 for rows in found)
        of_one = [len(set(sources(rows))) == 1 for rows in found]
        assert all(of_one) if batches != "mixed" else not any(of_one[:-1])


def test_batches_of_single_sources_come_in_random_order_where_they_are_shuffled() -> None:
    def order(shuffle: bool) -> list[int]:
        found = sampled(UniformConfig(batches="single")).batches_of(1, Training(batch_size=16, shuffle=shuffle))
        return [sources(rows)[0] for rows in found]

    assert order(shuffle=False) == [0, 1, 2] * 10
    assert order(shuffle=True) != order(shuffle=False)
    assert Counter(order(shuffle=True)) == Counter(order(shuffle=False))


def test_fewer_rows_of_a_source_are_passed_as_often() -> None:
    some = sampled(UniformConfig(), {"a": 100, "b": 20, "c": 30}).of_sizes({"a": 50, "b": 20})
    assert some.sizes == {"a": 50, "b": 20}
    assert some.rows[0] == (25, 50)
    assert len(rows_of(some, 1, shuffle=True)) == 75
    whole = sampled(ProportionalConfig())
    assert whole.of_sizes(SIZES) is whole
    assert whole.of_sizes({"small": 2}).rows[0] == (2,)


@given(st.integers(1, 10**6), st.lists(st.floats(0, 1e9), min_size=1, max_size=9).filter(lambda some: sum(some) > 1e-3))
def test_rows_are_divided_without_rest_and_as_the_shares_say(total: int, shares: list[float]) -> None:
    counts = divide(total, shares)
    assert sum(counts) == total
    assert all(abs(count - total * share / sum(shares)) < 1 + 1e-6 for count, share in zip(counts, shares, strict=True))


class OddConfig(SamplerConfig):
    """A sampler that gives what it is told to."""

    kind: Literal["odd"] = "odd"
    given: Any

    def shares(self, sizes: Mapping[str, int], epoch: int) -> Any:
        return self.given() if callable(self.given) else self.given


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1.0, 2.0], "shares must give a number for each source, large, middle, small, got [1.0, 2.0]"),
        ({"large": 1.0}, "shares must give a number for each source, large, middle, small, got {'large': 1.0}"),
        ({"large": -1.0, "middle": 1.0, "small": 1.0}, "shares must be finite numbers from 0, and not all 0"),
        ({"large": float("inf"), "middle": 1.0, "small": 1.0}, "shares must be finite numbers from 0, and not all 0"),
        (dict.fromkeys(SIZES, "many"), "shares must be numbers, got {'large': 'many'"),
        (dict.fromkeys(SIZES, 0.0), "shares must be finite numbers from 0, and not all 0"),
    ],
)
def test_a_sampler_that_gives_no_shares_is_named(shares: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        sampled(OddConfig(given=shares))
    assert str(caught.value).startswith("x.yaml:3:1: sampling: plugin 'odd' of ")
    assert message in str(caught.value)


def test_a_sampler_that_answers_otherwise_when_asked_again_is_an_error() -> None:
    numbers = iter(range(1, 100))
    with pytest.raises(PluginError, match="asked again for the shares of epoch 1, it gives another answer"):
        sampled(OddConfig(given=lambda: {"large": float(next(numbers)), "middle": 1.0, "small": 1.0}))


def test_a_source_that_never_gives_a_row_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^x\.yaml:3:1: sampling: source small gives no row in any of 6 epo"):
        sampled(WeightedConfig(weights={"large": 1.0, "middle": 1.0, "small": 1e-6}))


def test_batches_of_a_source_come_in_the_same_order_with_others_and_alone() -> None:
    together = sampled(ProportionalConfig(batches="single"))
    alone = together.of_sizes({"middle": 40})
    settings = Training(batch_size=16, shuffle=True)
    for epoch in (1, 2):
        of_source = [rows - 400 for rows in together.batches_of(epoch, settings) if 400 <= int(rows[0]) < 440]
        assert [rows.tolist() for rows in of_source] == [rows.tolist() for rows in alone.batches_of(epoch, settings)]


@KINDS
@pytest.mark.parametrize("sizes", [SIZES, {"large": 400}])
def test_what_else_differs_from_a_task_alone_is_said_where_batches_mix_sources(
    batches: Literal["mixed", "single", "in_turn"], sizes: dict[str, int]
) -> None:
    said = Sampling(sizes, batches, (tuple(sizes.values()),)).warnings_of_comparison
    assert bool(said) == (batches == "mixed" and len(sizes) > 1)
    assert not said or said[0].endswith("sampling.batches: single keeps its steps alike")
