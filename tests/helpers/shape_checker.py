"""What checks the declared types and shapes at each call, in the tests alone."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # as type checkers do, it takes an int for a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check what a function is given and gives, unless it is made anew in each call of another: that takes too long."""
    return function if "<locals>" in function.__qualname__ else _check(function)
