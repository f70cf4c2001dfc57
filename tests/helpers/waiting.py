"""Wait for something that can be seen, as long as a busy machine may need."""

import time
from collections.abc import Callable
from typing import Any

#: Seconds after which a test that waits gives up. A busy machine is slow, so this is far more than anything takes.
PATIENCE = 900


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {PATIENCE} seconds in vain"
        time.sleep(0.05)
    return found
