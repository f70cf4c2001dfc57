"""Where training runs, and in which precision."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from topwork.errors import ConfigurationError
from topwork.experiment.schema import Training
from topwork.torchrun import process_here

#: How long a process waits for another: the main one may measure, save and log for hours. One that dies torchrun sees.
PATIENCE = timedelta(days=7)


def make_accelerator(settings: Training) -> Accelerator:
    """Choose device and precision; under torchrun, join the other processes, which all must call this.

    Raises:
        ConfigurationError: the device that the experiment asks for is not there.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run of a process decides for all
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    # a head without labels in a batch takes no part in it
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=PATIENCE)]
    # of several processes on a machine without a GPU accelerate makes none of a group, unless it is told
    together_on_cpu = settings.device == "auto" and process_here()[0] > 1 and not torch.cuda.is_available()
    on_cpu = settings.device == "cpu" or together_on_cpu
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)
    if settings.device != "auto" and accelerator.device.type != settings.device:
        raise ConfigurationError(
            f"training.device is {settings.device}, but this machine offers {accelerator.device.type}; use auto"
        )
    if accelerator.device.type == "cuda":  # where kernels differ from run to run, take those that do not
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return accelerator


def wrap(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Return a model as accelerate runs it: with several processes, all of them compute its gradients.

    Call it anew where other parameters train; what it gave before is unwrapped by then.
    """
    several = accelerator.num_processes > 1
    wrapped: nn.Module = accelerator.prepare_model(model, evaluation_mode=not several)
    return wrapped


def unwrap(wrapped: nn.Module, accelerator: Accelerator) -> None:
    """Undo what ``wrap`` did: afterwards the model runs in plain float32, in this process alone."""
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
