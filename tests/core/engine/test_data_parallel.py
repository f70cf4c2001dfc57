"""Several processes give the gradients, losses and outputs that one gives."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

import parallel_cases
import torchrun
from topwork.engine.data_parallel import LostProcessError, Processes, errors_of_lost_processes
from topwork.torchrun import process_here


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


def test_one_process_sends_nothing_and_has_all_rows() -> None:
    alone, numbers = Processes(), torch.arange(5)
    assert alone.is_main
    for given_back in (alone.share(numbers), alone.sum(numbers), alone.max(numbers), alone.from_main(numbers)):
        assert given_back is numbers
    assert alone.gather(numbers).tolist() == [[0, 1, 2, 3, 4]]
    assert alone.told_by_main("why") == "why"
    assert alone.sum_by_name({"a": torch.ones(())}, ["a", "b"]) == {"a": torch.ones(())}


@pytest.mark.parametrize(("count", "size"), [(2, 5), (3, 2), (4, 16)])
def test_shares_have_each_row_once_in_order(count: int, size: int) -> None:
    shares = [Processes(count, number).share(torch.arange(size)) for number in range(count)]
    assert torch.equal(torch.cat(shares), torch.arange(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_connection_that_is_closed_says_that_a_process_has_ended() -> None:
    with (
        pytest.raises(LostProcessError, match="another process of this training has ended"),
        errors_of_lost_processes(),
    ):
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:2021")
    with pytest.raises(RuntimeError, match="shapes differ"), errors_of_lost_processes():
        raise RuntimeError("shapes differ")


def test_one_is_found_where_torchrun_started_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert process_here() == (1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # some clusters set it for every job
    assert process_here() == (1, 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "3")
    assert process_here() == (4, 3)
