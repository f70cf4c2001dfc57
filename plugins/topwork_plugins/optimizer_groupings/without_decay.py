"""Weight decay for weights alone, as most published recipes have it."""

from collections.abc import Sequence
from dataclasses import replace

import topwork


def spare_biases_and_norms(
    model: topwork.Model, groups: Sequence[topwork.ParameterGroup]
) -> list[topwork.ParameterGroup]:
    """Divide each group in two: what has two dimensions or more, and biases and norms, which get no weight decay.

    The second group has the name of the first and ``.no_decay``.
    """
    spared = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
    divided = []
    for group in groups:
        weights = tuple(name for name in group.parameters if name not in spared)
        others = tuple(name for name in group.parameters if name in spared)
        divided.append(replace(group, parameters=weights))
        divided.append(replace(group, name=f"{group.name}.no_decay", parameters=others, weight_decay=0.0))
    return divided
