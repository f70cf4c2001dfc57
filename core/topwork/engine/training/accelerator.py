"""Where training runs, and in which precision."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from topwork.errors import ConfigurationError
from topwork.experiment.schema import Training


def make_accelerator(settings: Training) -> Accelerator:
    """Choose device and precision.

    Raises:
        ConfigurationError: the device that the experiment asks for is not there.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run of a process decides for all
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=precision)
    if settings.device != "auto" and accelerator.device.type != settings.device:
        raise ConfigurationError(
            f"training.device is {settings.device}, but this machine offers {accelerator.device.type}; use auto"
        )
    if accelerator.device.type == "cuda":  # where kernels differ from run to run, take those that do not
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return accelerator
