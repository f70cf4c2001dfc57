"""What steps give is added up, and goes through JSON."""

import json
from dataclasses import asdict

from topwork.engine.training.partial_epoch import PartialEpoch
from topwork.engine.training.step import Step


def test_mean_losses_weigh_steps_by_what_their_means_are_divided_by() -> None:
    partial = PartialEpoch()
    partial.add(Step({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0}, {}), rows=2, rates={"heads": 0.1}, seconds=0.5)
    partial.add(Step({"a": 4.0}, {"a": 4.0}, {}), rows=4, rates={"heads": 0.2}, seconds=0.25)
    assert partial.losses(["b", "none", "a"]) == {"b": 3.0, "a": 3.0}
    assert list(partial.losses(["b", "a"])) == ["b", "a"]
    assert (partial.steps, partial.rows, partial.rates, partial.seconds) == (2, 6, {"heads": 0.2}, 0.75)
    assert partial.further == {}


def test_factors_and_gradients_are_means_over_steps() -> None:
    partial = PartialEpoch(gradients={"gradient_norm/a": [1.0, 3.0]})
    for factor in (1.0, 2.0):
        partial.add(Step({"a": 1.0}, {"a": 1.0}, {"a": factor}), rows=1, rates={}, seconds=1.0)
    assert partial.further == {"weighting/a": 1.5, "gradient_norm/a": 2.0}


def test_it_is_the_same_after_json() -> None:
    partial = PartialEpoch()
    partial.add(Step({"a": 0.1, "b": 1 / 3}, {"a": 3.0, "b": 7.0}, {"a": 0.2}), rows=5, rates={"x": 1e-3}, seconds=0.1)
    assert PartialEpoch(**json.loads(json.dumps(asdict(partial)))) == partial
