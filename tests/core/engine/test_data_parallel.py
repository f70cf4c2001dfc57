"""Several processes give the gradients, losses and outputs that one gives."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

import parallel_cases
import torchrun


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_losses_and_outputs_of_several_processes_are_those_of_one(processes: int, tmp_path: Path) -> None:
    code, _, errors = torchrun.run(processes, [parallel_cases.__file__, str(tmp_path)], tmp_path)
    assert code == 0, errors
    expected = parallel_cases.results()
    for number in range(processes):
        found = safetensors.torch.load_file(tmp_path / f"{number}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, atol=1e-6, rtol=0, msg=lambda why, name=name: f"{name}: {why}"
            )
