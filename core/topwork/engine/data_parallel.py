"""The processes that train one model together under torchrun, each on its share of every batch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather, reduce
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from topwork.errors import TopworkError


class LostProcessError(TopworkError):
    """Another process of the same training has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training. Where there is one, nothing is sent, and all is given back as it is.

    Every process must call the methods that send something in the same order. What is sent are tensors; nothing is
    pickled.

    Attributes:
        count: how many there are.
        number: of this one, from 0; the first is the main one, which alone writes and prints.
        device: on which tensors are sent.
    """

    count: int = 1
    number: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.number == 0

    def share(self, rows: Int[Tensor, " B"]) -> Int[Tensor, " _S"]:
        """Return this process's share of some rows; all of them together have each row once."""
        return rows if self.count == 1 else rows.tensor_split(self.count)[self.number]

    def sum(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the sum of a tensor of each process, of one shape and type."""
        return self._reduce(tensor, "sum")

    def max(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the greatest number at each place of a tensor of each process, of one shape and type."""
        return self._reduce(tensor, "max")

    def sum_by_name(self, values: Mapping[str, Float[Tensor, ""]], names: Sequence[str]) -> dict[str, Tensor]:
        """Return the sums of numbers of each process by name; what a process lacks counts as 0.

        Args:
            names: all that some process has, in an order that all agree on.
        """
        if self.count == 1 or not names:
            return dict(values)
        none = torch.zeros((), dtype=next(iter(values.values())).dtype if values else None, device=self.device)
        return dict(zip(names, self.sum(torch.stack([values.get(name, none) for name in names])).unbind(), strict=True))

    def gather(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "count ..."]:
        """Return a tensor of each process, of one shape and type, in the order of the processes."""
        with errors_of_lost_processes():
            gathered: Tensor = gather(tensor.to(self.device)[None]) if self.count > 1 else tensor[None]
        return gathered.to(tensor.device)

    def from_main(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the main process's tensor; those of the others must have its shape and type."""
        if self.count == 1:
            return tensor
        with errors_of_lost_processes():
            sent: Tensor = broadcast(tensor.detach().to(self.device, copy=True).contiguous())
        return sent.to(tensor.device)

    def told_by_main(self, value: object) -> Any:
        """Return the main process's value, which is made of what JSON has; that of the others is not read."""
        if self.count == 1:
            return value
        content = json.dumps(value).encode() if self.is_main else b""
        size = int(self.max(torch.tensor([len(content)])))
        sent = self.from_main(torch.frombuffer(bytearray(content.ljust(size)), dtype=torch.uint8))
        return json.loads(bytes(sent.tolist()))

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        if self.count == 1:
            return tensor
        with errors_of_lost_processes():
            reduced: Tensor = reduce(tensor.detach().to(self.device), how)
        return reduced.to(tensor.device)


def processes_of(accelerator: Accelerator) -> Processes:
    """Return the processes that accelerate found."""
    return Processes(accelerator.num_processes, accelerator.process_index, accelerator.device)


@contextmanager
def errors_of_lost_processes() -> Iterator[None]:
    """Say that another process has ended, where that is why tensors cannot be sent.

    Raises:
        LostProcessError: it has.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's have no type of their own
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise LostProcessError(
                "another process of this training has ended, so that this one cannot go on; why, it has said itself, "
                "or torchrun says below"
            ) from error
        raise
