"""The settings of a sampler say how batches come together, and give shares."""

import pytest
from pydantic import ValidationError

from topwork.interfaces.sampler import SamplerConfig
from topwork_plugins.samplers.uniform import UniformConfig


def test_the_settings_of_a_sampler_give_shares() -> None:
    assert SamplerConfig.__abstractmethods__ == {"shares"}


def test_batches_are_of_one_of_three_kinds() -> None:
    assert UniformConfig().batches == "mixed"
    assert UniformConfig(batches="single").batches == "single"
    with pytest.raises(ValidationError, match="batches"):
        UniformConfig(batches="by size")
