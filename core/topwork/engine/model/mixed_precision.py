"""The frozen part in mixed precision: matrix products and what reads them alone in bfloat16, sums and norms in float32.

How oneDNN sums a product of bfloat16 depends on its number of rows, and with many columns on the number of threads.
So that a text has the same bits whatever is encoded with it, linear layers take the rows of a batch in blocks of equal
size, on as many threads as there are cores, in processes that are limited to fewer too.
"""

import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

#: Rows of a block: more are wasted on short batches, fewer leave the processor idle.
BLOCK_ROWS = 256

_casts: MutableMapping[Tensor, tuple[object, Tensor]] = WeakTensorKeyDictionary()


@contextmanager
def precision_of_stage(device: torch.device, *, mixed: bool) -> Iterator[None]:
    """Compute matrix products in bfloat16 within the block, or as they are, whatever holds around it."""
    with ExitStack() as modes:
        modes.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed))
        if mixed and device.type == "cpu":
            modes.enter_context(_LinearInBlocks())
            modes.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(cores())
        yield


class _LinearInBlocks(TorchFunctionMode):
    """Linear layers in bfloat16, block by block."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply (..., K) with (N, K) and add (N,) to (..., N) of bfloat16, rows independent of each other."""
    weight, bias = _cast(weight), None if bias is None else _cast(bias)
    rows = input.reshape(-1, input.shape[-1]).bfloat16()
    padded = functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK_ROWS)) if len(rows) % BLOCK_ROWS else rows
    result = rows.new_empty(len(padded), len(weight))
    for block, product in zip(padded.split(BLOCK_ROWS), result.split(BLOCK_ROWS), strict=True):
        product.copy_(functional.linear(block, weight, bias))
    return result[: len(rows)].view(*input.shape[:-1], len(weight))


def _cast(parameter: Tensor) -> Tensor:
    """Return a parameter in bfloat16, kept for as long as it lives and is not changed."""
    state = (parameter._version, parameter.data_ptr())
    of_state, cast = _casts.get(parameter, (None, parameter))
    if of_state != state:
        cast = parameter.detach().bfloat16()
        _casts[parameter] = (state, cast)
    return cast


def forget_casts() -> None:
    """Cast weights anew from here on: what is written past autograd, such as ``.data``, is seen by no version."""
    _casts.clear()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bfloat16_instructions() -> list[str]:
    """Return the names of the processor's sets of instructions for bfloat16, which choose its kernels."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return []
    return sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True and "bf16" in name)
