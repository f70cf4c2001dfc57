"""Search sections without an experiment, and trials that are finished without training."""

from typing import Any

from topwork.experiment.search import Searched
from topwork.experiment.study import Dimension, Study
from topwork.lab.study.ledger import Ledger

RATES = {"heads_lr": Dimension(low=1e-4, high=1e-2, log=True), "backbone_lr": Dimension(low=1e-6, high=1e-3, log=True)}
OWN = {"heads_lr": 1e-3, "backbone_lr": 5e-5}
GRID = {"depth": Dimension(low=0, high=4, step=2), "pooling": Dimension(choices=["cls", "mean"])}


def settings(**changed: Any) -> Study:
    """A study section."""
    search = changed.pop("search", {f"optimizer.{name}": dimension for name, dimension in RATES.items()})
    return Study(
        search=search, objective=changed.pop("objective", "loss"), **{"trials": 5, "sampler": "random"} | changed
    )


def searched(dimensions: dict[str, Dimension], own: dict[str, Any]) -> list[Searched]:
    """What a study section with these dimensions searches."""
    integer = {name for name, one in dimensions.items() if isinstance(one.low, int)}
    return [Searched(f"x.{name}", name, one, name in integer, own[name]) for name, one in dimensions.items()]


def finish_all(ledger: Ledger) -> list[dict[str, Any]]:
    """Finish what there is to do, and return the values that were trained."""
    done = []
    while (trial := ledger.ask()) is not None:
        done.append(trial.params)
        ledger.complete(trial, [1.0 + trial.number])
    return done
