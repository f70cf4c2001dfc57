"""Whether a model may be trained in several processes, each of which computes its share of every batch."""

from itertools import chain

from torch import nn

from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import ConfigurationError, enumerate_names
from topwork.experiment.origin import Origin


def check_norms(model: MultiTaskModel, first: int, processes: int, *, origin: Origin) -> None:
    """Check that what trains takes no means over a batch, of which each process has a part.

    Args:
        first: how many stages train in no epoch.
        processes: in how many the model is trained.

    Raises:
        ConfigurationError: something does; names it.
    """
    if processes == 1:
        return
    of_stages = chain.from_iterable(stage.modules for stage in model.stages()[first:])
    training: dict[str, list[nn.Module]] = {
        "backbone": list(of_stages),
        "pooling": [model.pooling],
        **{f"tasks.{name}.head": [head] for name, head in model.heads.items()},
    }
    for part, modules in training.items():
        norms = [type(one).__name__ for module in modules for one in module.modules() if is_of_batch(one)]
        if norms:
            raise ConfigurationError(
                f"{enumerate_names(sorted(set(norms)))} takes means over a batch, and each of {processes} processes "
                "would take its share of a batch for a whole one; use a norm that needs no batch, or train in one "
                "process"
            ).located(origin.locate(*part.split(".")))


def is_of_batch(module: nn.Module) -> bool:
    """Whether a module takes means over a batch where it trains."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def draws_dropout(model: nn.Module) -> bool:
    """Whether a part of a model that is in train mode draws which numbers to drop."""
    return any(isinstance(one, nn.modules.dropout._DropoutNd) and one.training and one.p > 0 for one in model.modules())
