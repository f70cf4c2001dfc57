"""What torchrun says of a process, and the command that is run as it was."""

import pytest

from topwork.torchrun import as_here, process_here

COMMAND = "topwork resume runs/x"


@pytest.mark.parametrize(
    ("variables", "here", "command"),
    [
        ({}, (1, 0), COMMAND),
        ({"WORLD_SIZE": "4", "RANK": "1"}, (1, 0), COMMAND),  # of another launcher, such as SLURM's tasks
        ({"LOCAL_RANK": "0"}, (1, 0), COMMAND),
        (
            {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            (2, 1),
            f"torchrun --nproc-per-node 2 -m {COMMAND}",
        ),
        (
            {"LOCAL_RANK": "1", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
            (8, 5),
            f"torchrun --nnodes 2 --nproc-per-node 4 -m {COMMAND}",
        ),
    ],
)
def test_a_process_knows_how_many_there_are_and_how_they_are_started(
    variables: dict[str, str], here: tuple[int, int], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert process_here() == here
    assert as_here(COMMAND) == command
