"""Steps in float64 that several processes take together: run with torchrun, it writes what each gave to a file."""

import sys
from itertools import product
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from labelled_texts import texts_with, two_headed_model
from topwork.engine.data_parallel import processes_of
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.training.accelerator import make_accelerator, wrap
from topwork.engine.training.step import JointLoss
from topwork.experiment.schema import Training
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.torchrun import process_here
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig

LOSS_WEIGHTS = {"animal": 1.0, "mood": 0.25}

WEIGHTINGS: dict[str, LossWeightingConfig] = {
    "fixed": FixedConfig(),
    "uncertainty": UncertaintyConfig(),
    "dynamic_average": DynamicAverageConfig(),
    "FAMO": TorchJdConfig(scalarizer="FAMO"),
    "UPGrad": TorchJdConfig(aggregator="UPGrad"),
    "PCGrad": TorchJdConfig(aggregator="PCGrad"),
}

#: Which rows have a label of each task.
PATTERNS = {
    "all": ([True] * 11, [True] * 11),
    "missing": ([True, False, True] * 3, [False, True, True] * 3),
    "in one process": ([True] * 8, [True, *[False] * 7]),
    "in the last process": ([True] * 8, [*[False] * 7, True]),
    "in no process": ([True] * 6, [False] * 6),
    "a row": ([True], [True]),
    "two rows": ([True, False], [False, True]),
}


def results() -> dict[str, Tensor]:
    """Take two steps of each case from the same weights, and return gradients, losses and factors of both."""
    accelerator = make_accelerator(Training(device="cpu"))
    model = two_headed_model()
    wrapped = wrap(model, accelerator)
    found: dict[str, Tensor] = {}
    for (kind, config), (pattern, labels), accumulation in product(WEIGHTINGS.items(), PATTERNS.items(), (1, 3)):
        examples = texts_with(dict(zip(LOSS_WEIGHTS, labels, strict=True)))
        torch.manual_seed(0)
        weighting = config.build(list(LOSS_WEIGHTS)).double()
        joint = JointLoss(wrapped, model, weighting, LOSS_WEIGHTS, accumulation, accelerator)
        rows = examples.with_labels(torch.arange(examples.count))
        for step in (1, 2):
            model.zero_grad(set_to_none=True)
            weighting.zero_grad(set_to_none=True)
            taken = joint.backward(examples, rows)
            case = f"{kind}, labels {pattern}, {accumulation} pieces, step {step}"
            parameters = [*model.named_parameters(), *weighting.named_parameters(prefix="weighting")]
            found |= {f"{case}: {name}": one.grad.clone() for name, one in parameters if one.grad is not None}
            numbers = {"loss": taken.losses, "denominator": taken.denominators, "factor": taken.factors}
            for what, values in numbers.items():
                found |= {f"{case}: {what} {task}": torch.tensor(value).double() for task, value in values.items()}
            compared = joint.gradients(examples, rows)
            found |= {f"{case}: gradient {task}": gradient for task, gradient in compared.items()}
            joint.after_step(examples, rows)
        if hasattr(weighting, "end_epoch"):
            weighting.end_epoch(taken.losses)
    for pattern in ("all", "in one process", "in no process"):
        examples = texts_with({task: 20 * labels for task, labels in zip(LOSS_WEIGHTS, PATTERNS[pattern], strict=True)})
        outputs = outputs_of(model, examples, device=accelerator.device, processes=processes_of(accelerator))
        found |= {f"outputs, labels {pattern}: {task}": one.contiguous() for task, one in outputs.items()}
    return found


if __name__ == "__main__":
    safetensors.torch.save_file(results(), Path(sys.argv[1]) / f"{process_here()[1]}.safetensors")
