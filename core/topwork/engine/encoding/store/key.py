"""What activations are filed under: everything that decides their bits, and no name or place."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from topwork.engine.model.mixed_precision import BLOCK_ROWS, bfloat16_instructions, cores
from topwork.engine.model.multitask import tensors_of
from topwork.engine.model.prefix import Prefix
from topwork.interfaces.pooling import PoolingConfig

#: The version of the encoder's own arithmetic; it rises with every change that alters a bit.
NUMERICS = 1


@dataclass(frozen=True)
class Key:
    """What was computed, as JSON values. Equal descriptions mean equal activations for equal token ids."""

    description: dict[str, object]

    @cached_property
    def digest(self) -> str:
        """sha256 of the description, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()


def make_key(prefix: Prefix, pooling: PoolingConfig, *, dtype: torch.dtype, device: torch.device) -> Key:
    """Describe what a prefix computes on ``device`` and what is kept of it as ``dtype``.

    ``pooling`` is part of it only where something is pooled left of the cut.
    """
    stages = prefix.stages
    narrow = None if prefix.first_token_stage is None else stages[prefix.first_token_stage]
    layers = {"layers": prefix.cut.layers} if prefix.cut.layers else {}
    if prefix.cut.keeps == "pooled" and prefix.width != prefix.pooling.width:
        layers["width"] = prefix.width  # of words alone
    return Key(
        {
            "backbone": _class_name(prefix.backbone),
            "architecture": dict(prefix.backbone.architecture()),
            "stages": [stage.name for stage in stages],
            "weights": digest_of_prefix(prefix),
            "keeps": prefix.cut.keeps,
            "first_token_query": narrow is not None and narrow.run_first_token is not None,
            "pooling": [_class_name(prefix.pooling), pooling.model_dump(mode="json")] if _pools(prefix) else None,
            "dtype": str(dtype).removeprefix("torch."),
            "numerics": {"encoder": NUMERICS, "torch": torch.__version__, "processor": processor(device)},
            **layers,
            **({"bfloat16": _mixed(prefix.mixed_stages, device)} if prefix.mixed_stages else {}),
        }
    )


def digest_of_prefix(prefix: Prefix) -> str:
    """sha256 of every parameter and buffer left of the cut, in hexadecimal."""
    digest = hashlib.sha256()
    parts: list[tuple[str, Sequence[nn.Module]]] = [(stage.name, stage.modules) for stage in prefix.stages]
    if prefix.cut.keeps == "pooled":
        parts.append(("pooling", [prefix.pooling]))
    for part, modules in parts:
        for number, module in enumerate(modules):
            for name, tensor in tensors_of(module):
                digest.update(f"{part} {number} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pools(prefix: Prefix) -> bool:
    return prefix.cut.keeps == "pooled" or prefix.cut.layers > 0


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def processor(device: torch.device) -> str:
    """Return what chooses the matrix kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _mixed(stages: int, device: torch.device) -> dict[str, object]:
    """Describe what decides the bits of stages in mixed precision."""
    on_cpu = {"instructions": bfloat16_instructions(), "cores": cores(), "rows": BLOCK_ROWS}
    return {"stages": stages, **(on_cpu if device.type == "cpu" else {})}
