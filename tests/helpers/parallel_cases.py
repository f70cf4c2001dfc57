"""Steps in float64 that several processes take together: run with torchrun, it writes what each gave to a file."""

import dataclasses
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from encoding_helpers import no_words
from topwork.engine.data_parallel import processes_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.training.accelerator import make_accelerator, wrap
from topwork.engine.training.step import JointLoss
from topwork.experiment.schema import Training
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork.testing.tiny import tiny_model
from topwork.torchrun import process_here
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig

LOSS_WEIGHTS = {"animal": 1.0, "mood": 0.25}
CLASS_WEIGHTS = torch.tensor([2.0, 0.0], dtype=torch.float64)

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


def parallel_model() -> MultiTaskModel:
    """A model in float64 all of which trains; the loss of its second head reads one of its two classes alone."""
    torch.manual_seed(0)
    model = tiny_model().double().eval()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    heads = dict(model.tasks)
    weighted = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)
    heads["mood"] = dataclasses.replace(
        heads["mood"], loss=weighted, denominator=lambda targets: CLASS_WEIGHTS[targets].sum()
    )
    heads["animal"] = dataclasses.replace(heads["animal"], loss=nn.functional.cross_entropy)
    model.tasks = heads
    return model


def texts_with(labelled: Mapping[str, list[bool]]) -> Examples:
    """Texts of various lengths, with labels of each task where asked for."""
    count = len(next(iter(labelled.values())))
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(3, 9, (count,), generator=generator)
    ids = Ragged(torch.randint(3, 50, (int(lengths.sum()),), generator=generator), offsets_of(lengths))
    targets = {task: torch.randint(2, (count,), generator=generator) for task in labelled}
    masks = {task: torch.tensor(values) for task, values in labelled.items()}
    return Examples(
        ids, no_words(count), torch.arange(count)[:, None], targets, masks, dict.fromkeys(labelled, "pooled"), (count,)
    )


def results() -> dict[str, Tensor]:
    """Take two steps of each case from the same weights, and return gradients, losses and factors of both."""
    accelerator = make_accelerator(Training(device="cpu"))
    model = parallel_model()
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
