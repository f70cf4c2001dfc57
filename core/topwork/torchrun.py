"""What torchrun says of this process."""

import os


def as_here(command: str) -> str:
    """Return a ``topwork`` command as it is to be run in as many processes as this one belongs to."""
    count, _ = process_here()
    if count == 1:
        return command
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    nodes = f"--nnodes {count // here} " if here < count else ""  # where they meet, the launch of the nodes says
    return f"torchrun {nodes}--nproc-per-node {here} -m {command}"


def local_rank() -> int | None:
    """Return the number of this process among those of its machine; None where it was not torchrun that started it."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def process_here() -> tuple[int, int]:
    """Return how many processes torchrun started, and the number of this one; 1 and 0 where it was not torchrun."""
    if "LOCAL_RANK" not in os.environ:
        return 1, 0
    return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
