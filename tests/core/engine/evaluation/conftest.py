"""Intervals are what is tested here, so they come from as many resamples as users get."""

import pytest


@pytest.fixture(autouse=True)
def _all(all_resamples: None) -> None:
    """Take all of them in each test of this folder."""
