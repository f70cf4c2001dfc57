"""What torchrun says of this process."""

import os


def process_here() -> tuple[int, int]:
    """Return how many processes torchrun started, and the number of this one; 1 and 0 where it was not torchrun."""
    if "LOCAL_RANK" not in os.environ:
        return 1, 0
    return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
