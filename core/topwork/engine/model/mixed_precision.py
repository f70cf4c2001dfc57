"""The frozen part in mixed precision: matrix products in bfloat16, all else in float32.

How oneDNN sums a product of bfloat16 depends on its number of rows, and with many columns on the number of threads.
So that a text has the same bits whatever is encoded with it, linear layers take the rows of a batch in blocks of equal
size, each on one thread.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from topwork.errors import ConfigurationError
from topwork.experiment.schema import Training
from topwork.interfaces.backbone import Backbone, Precision

#: Rows of a block: more are wasted on short batches, fewer leave the processor idle.
BLOCK_ROWS = 256

_casts: MutableMapping[Tensor, tuple[object, Tensor]] = WeakTensorKeyDictionary()


@contextmanager
def precision_of_stage(device: torch.device, *, mixed: bool) -> Iterator[None]:
    """Compute matrix products in bfloat16 within the block, or as they are, whatever holds around it."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        if mixed:
            with _LinearInBlocks():
                yield
        else:
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
    if input.device.type != "cpu":
        return functional.linear(rows, weight, bias).view(*input.shape[:-1], len(weight))
    count = len(rows)
    blocks = functional.pad(rows, (0, 0, 0, -count % BLOCK_ROWS)).split(BLOCK_ROWS)
    products = _on_one_thread_each(lambda block: functional.linear(block, weight, bias), blocks)
    return torch.cat(list(products))[:count].view(*input.shape[:-1], len(weight))


def _cast(parameter: Tensor) -> Tensor:
    """Return a parameter in bfloat16, kept for as long as it lives and is not changed."""
    state = (parameter._version, parameter.data_ptr())
    of_state, cast = _casts.get(parameter, (None, parameter))
    if of_state != state:
        cast = parameter.detach().bfloat16()
        _casts[parameter] = (state, cast)
    return cast


def _on_one_thread_each(
    product: Callable[[Float[Tensor, "rows K"]], Float[Tensor, "rows N"]], blocks: Iterable[Float[Tensor, "rows K"]]
) -> Iterable[Float[Tensor, "rows N"]]:
    threads = torch.get_num_threads()
    return map(product, blocks) if threads == 1 else _single_threads(threads).map(product, blocks)


@cache
def _single_threads(count: int) -> ThreadPoolExecutor:
    """Return threads that compute on one core each."""
    started = Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on the thread keeps its own number
        started.wait()

    pool = ThreadPoolExecutor(count, initializer=start)
    for _ in range(count):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(count)  # which new threads of the process begin with
    return pool


def check_precision(precision: Precision, backbone: Backbone, *, frozen: bool, where: str) -> None:
    """Check that there is a frozen part for the precision of one, and that its products can be made in blocks.

    Raises:
        ConfigurationError: there is none, or they cannot; says ``where`` the setting stands.
    """
    if precision == "float32":
        return
    if not frozen:
        raise ConfigurationError(
            f"{where}: bfloat16 is the precision of the frozen part, but the first stage trains, so nothing is frozen; "
            "leave it out, or see training.precision"
        )
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            continue
        for of_module, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                raise ConfigurationError(
                    f"{where}: bfloat16 needs weights in torch.nn.Linear, whose rows can be made independent of each "
                    f"other; {name}.{of_module} is in {type(module).__name__}; use float32"
                )


def warn_of_emulation(precision: Precision, settings: Training) -> list[str]:
    """Say so where the processor has no instructions for a precision."""
    on_cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    known = torch.cpu.get_capabilities()["architecture"] == "x86_64"  # other processors do not say
    if precision == "float32" or not on_cpu or not known or bfloat16_instructions(torch.device("cpu")):
        return []
    return ["this processor emulates bfloat16: backbone.precision: bfloat16 is slower here than float32"]


def bfloat16_instructions(device: torch.device) -> list[str]:
    """Return the names of a processor's sets of instructions for bfloat16, which choose its kernels."""
    if device.type != "cpu":
        return []
    return sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True and "bf16" in name)
