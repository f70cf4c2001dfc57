"""What activations are filed under: everything that decides their bits, and no name or place."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from topwork.engine.model.multitask import MultiTaskModel, tensors_of
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


def make_key(model: MultiTaskModel, pooling: PoolingConfig, *, dtype: torch.dtype, device: torch.device) -> Key:
    """Describe what the prefix of ``model`` computes on ``device`` and what is kept of it as ``dtype``.

    ``pooling`` is part of it only where the cut is behind the pooling.
    """
    stages = model.backbone.stages()[: model.cut.stage]
    narrow = None if model.first_token_stage is None else stages[model.first_token_stage]
    return Key(
        {
            "backbone": _class_name(model.backbone),
            "architecture": dict(model.backbone.architecture()),
            "stages": [stage.name for stage in stages],
            "weights": digest_of_prefix(model),
            "keeps": model.cut.keeps,
            "first_token_query": narrow is not None and narrow.run_first_token is not None,
            "pooling": [_class_name(model.pooling), pooling.model_dump(mode="json")] if _pools(model) else None,
            "dtype": str(dtype).removeprefix("torch."),
            "numerics": {"encoder": NUMERICS, "torch": torch.__version__, "processor": _processor(device)},
        }
    )


def digest_of_prefix(model: MultiTaskModel) -> str:
    """sha256 of every parameter and buffer left of the cut, in hexadecimal."""
    digest = hashlib.sha256()
    parts: list[tuple[str, Sequence[nn.Module]]] = [
        (stage.name, stage.modules) for stage in model.backbone.stages()[: model.cut.stage]
    ]
    if _pools(model):
        parts.append(("pooling", [model.pooling]))
    for part, modules in parts:
        for number, module in enumerate(modules):
            for name, tensor in tensors_of(module):
                digest.update(f"{part} {number} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pools(model: MultiTaskModel) -> bool:
    return model.cut.keeps == "pooled"


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _processor(device: torch.device) -> str:
    """What chooses the matrix kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
