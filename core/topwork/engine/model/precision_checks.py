"""Whether a backbone can run its frozen part in bfloat16, and whether the processor can."""

import torch
from torch import nn

from topwork.engine.model.encoder_checks import sample
from topwork.engine.model.mixed_precision import BLOCK_ROWS, bfloat16_instructions, capabilities, precision_of_stage
from topwork.errors import ConfigurationError, first_line
from topwork.experiment.schema import Training
from topwork.interfaces.backbone import Backbone, Precision


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
    """Say so where the processor has no unit for products of a precision."""
    if precision == "float32" or (settings.device != "cpu" and torch.accelerator.is_available()):
        return []
    if capabilities().get("architecture") != "x86_64" or "amx_bf16" in bfloat16_instructions():  # others do not say
        return []
    return ["this processor has no AMX for bfloat16: backbone.precision: bfloat16 is slower here than float32"]
