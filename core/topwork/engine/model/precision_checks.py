"""Whether a backbone can run its frozen part in bfloat16, and whether the processor can."""

from functools import cache
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional

from topwork.engine.model.encoder_checks import sample
from topwork.engine.model.mixed_precision import BLOCK_ROWS, precision_of_stage
from topwork.errors import ConfigurationError, first_line
from topwork.experiment.schema import Training
from topwork.interfaces.backbone import Backbone, Precision

#: The time of a product in bfloat16 over that of one in float32 from which it is said that it is slower.
SLOW = 1.1


def check_precision(precision: Precision, backbone: Backbone, *, frozen: bool, where: str) -> None:
    """Check that there is a frozen part for the precision of one, and that the backbone runs in it.

    Raises:
        ConfigurationError: there is none, or it does not, or a text's bits would depend on what is encoded with it;
            says ``where`` the setting stands.
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
        for weight, parameter in module.named_parameters(prefix=name, recurse=False):
            if parameter.dim() > 1:
                raise ConfigurationError(
                    f"{where}: bfloat16 needs weights in torch.nn.Linear, whose rows can be made independent of each "
                    f"other; {weight} is in {type(module).__name__}; use float32"
                )
    _try(backbone, where)


@torch.no_grad()
def _try(backbone: Backbone, where: str) -> None:
    """Run a text through all stages in bfloat16, alone and among others."""
    ids = sample(backbone.tokenizer)[0][-1]
    mode = backbone.training
    backbone.eval()
    found = []
    for texts in (1, BLOCK_ROWS // len(ids) + 1):
        hidden = torch.stack([ids.roll(number) for number in reversed(range(texts))])
        mask = torch.ones_like(hidden, dtype=torch.bool)
        try:
            for stage in backbone.stages():
                with precision_of_stage(torch.device("cpu"), mixed=True):
                    hidden = stage.run(hidden, mask).float()
        except RuntimeError as error:
            raise ConfigurationError(
                f"{where}: this encoder does not run in bfloat16: {first_line(error)}; use float32"
            ) from None
        found.append(hidden[-1])
    backbone.train(mode)
    if not torch.equal(*found):
        raise ConfigurationError(
            f"{where}: in bfloat16 this encoder gives a text other numbers where others are encoded with it; use "
            "float32"
        )


def warn_if_slow(precision: Precision, settings: Training) -> list[str]:
    """Try a matrix product in a precision, and say so where it takes longer than in float32."""
    if precision == "float32" or (settings.device != "cpu" and torch.accelerator.is_available()):
        return []
    times = seconds_of_product(torch.bfloat16) / seconds_of_product(torch.float32)
    if times < SLOW:
        return []
    return [
        f"on this processor a matrix product in bfloat16 takes {times:.1f} times as long as one in float32, so "
        "backbone.precision: bfloat16 is slower here"
    ]


@cache
def seconds_of_product(dtype: torch.dtype) -> float:
    """Return how long a linear layer as wide as BERT's feed-forward network takes on a block of rows, at best.

    It is timed once in a process, so that it is said once.
    """
    rows, weight = torch.ones(BLOCK_ROWS, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
    times = []
    for _ in range(6):
        started = perf_counter()
        functional.linear(rows, weight)
        times.append(perf_counter() - started)
    return min(times)
