"""How the tasks' gradients by what they share agree, and how large they are."""

from collections.abc import Mapping
from itertools import combinations
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

#: What the names of cosines and norms begin with among the metrics of an epoch.
COSINE, NORM = "gradient_cosine/", "gradient_norm/"


class GradientStatistics:
    """Collects, over some batches of an epoch, the norms of the tasks' gradients and the cosine of each pair.

    Args:
        values: of the batches so far, by name; those of further ones are added to it.
    """

    def __init__(self, values: dict[str, list[float]]) -> None:
        self._values = values

    def add(self, gradients: Mapping[str, Float[Tensor, " P"]]) -> None:
        """Take the gradients of the tasks that have rows in a batch, by the P numbers that they share.

        A gradient of 0 has no cosine with others.
        """
        norms = {task: gradient.norm().item() for task, gradient in gradients.items()}
        for task, norm in norms.items():
            self._values.setdefault(f"{NORM}{task}", []).append(norm)
        for one, other in combinations(gradients, 2):
            if norms[one] and norms[other]:
                product = (gradients[one] @ gradients[other]).item()
                cosine = product / (norms[one] * norms[other])
                self._values.setdefault(f"{COSINE}{one}/{other}", []).append(cosine)

    def means(self) -> dict[str, float]:
        """Return the mean of each over the batches that had it, as metrics."""
        return {name: fmean(values) for name, values in self._values.items()}


def chosen_batches(count: int, batches: int, seed: int) -> set[int]:
    """Draw which of so many batches of an epoch, from 1, to look at: evenly spaced ones may all be of one source."""
    drawn = torch.randperm(batches, generator=torch.Generator().manual_seed(seed))[:count]
    return {1 + number for number in drawn.tolist()}
