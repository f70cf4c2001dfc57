"""What came of training heads on every layer of a frozen encoder."""

from dataclasses import dataclass

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.study.grid_result import GridResult

#: The columns of the table.
COLUMNS = ("task", "layer", "pooling", "metric", "validation", "value", "low", "high", "seeds", "chosen")


@dataclass(frozen=True)
class Probe:
    """Which layer is read, and how its tokens are pooled.

    Attributes:
        layer: ``embeddings``, or the name of a layer, such as ``layer.3``.
        pooling: ``cls`` or ``mean``.
    """

    layer: str
    pooling: str

    def __str__(self) -> str:
        return f"{self.pooling} of {self.layer}"


@dataclass(frozen=True, kw_only=True)
class ProbeResult(GridResult):
    """What heads found in the layers of a frozen encoder.

    Attributes:
        metrics: of each task, the one that is compared.
        validation: by task and probe, that metric on the validation rows, the mean over the seeds.
        values: by task and probe, that metric on the test rows.
        chosen: of each task, the probe that is best on the validation rows.
        against_last: of each task, how much better what was chosen is on the test rows than the same pooling of the
            last layer, so that more is better; None where that is what was chosen, or was not trained.
    """

    columns = COLUMNS

    metrics: dict[str, str]
    validation: dict[tuple[str, Probe], float]
    values: dict[tuple[str, Probe], Estimate]
    chosen: dict[str, Probe]
    against_last: dict[str, Difference | None]

    @property
    def rows(self) -> list[dict[str, object]]:
        """All of it as a table: a row for each task and probe."""
        rows: list[dict[str, object]] = []
        for (task, probe), one in self.values.items():
            places = (task, probe.layer, probe.pooling, self.metrics[task], self.validation[task, probe])
            found = (one.value, one.low, one.high, one.seeds, self.chosen[task] == probe)
            rows.append(dict(zip(COLUMNS, (*places, *found), strict=True)))
        return rows

    @property
    def layers(self) -> list[str]:
        """The layers, first to last."""
        return list(dict.fromkeys(probe.layer for _, probe in self.values))

    @property
    def poolings(self) -> list[str]:
        """The poolings."""
        return list(dict.fromkeys(probe.pooling for _, probe in self.values))
