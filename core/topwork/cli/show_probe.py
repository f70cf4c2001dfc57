"""``topwork probe``."""

from topwork.cli.format import Format
from topwork.cli.show_training import describe_power, show_run
from topwork.cli.show_trainings import show_trainings
from topwork.cli.tables import console, describe_difference, heading, table
from topwork.experiment.schema import Experiment
from topwork.lab.study.probe import probe
from topwork.lab.study.probe_result import Probe, ProbeResult


def show_probe(experiment: Experiment, workers: int | None, format: Format) -> None:
    """Train with a progress bar, then print what heads find in each layer."""
    show_trainings(lambda bar: probe(experiment, workers=workers, observer=bar), format, show_layers, table="probes")


def show_layers(result: ProbeResult) -> None:
    """Print a table of layers for each task, and which of them is best on the validation rows."""
    for warning in result.warnings:
        console.print(f"note: {warning}", soft_wrap=True)
    seeds = len(result.seeds)
    over = f", means over {seeds} seeds" if seeds > 1 else ", of one seed"
    for task, metric in result.metrics.items():
        heading(f"{task}: {metric} on test rows by layer{over}")
        columns = [column for pooling in result.poolings for column in (f"#{pooling}", "#95 % interval")]
        shown = table("layer", *columns)
        for layer in result.layers:
            cells = [cell for pooling in result.poolings for cell in _cells(result, task, Probe(layer, pooling))]
            shown.add_row(layer, *cells)
        console.print(shown)
        console.print(_describe_choice(result, task), soft_wrap=True)
        console.print()
    console.print(describe_power(seeds), soft_wrap=True)
    trainings = len({probe for _, probe in result.values}) * seeds
    console.print(
        f"{trainings} trainings of {result.training_seconds:,.0f} s together, in {result.seconds:,.0f} s, "
        f"{result.encoding_seconds:,.0f} s of them to encode\ntable: {result.folder / 'probe.csv'}",
        soft_wrap=True,
    )
    show_run(result.name, result.tracking_uri)


def _cells(result: ProbeResult, task: str, probe: Probe) -> tuple[str, str]:
    found = result.values.get((task, probe))
    if found is None:
        return "", ""
    mark = "*" if result.chosen[task] == probe else " "
    return f"{found.value:.3f}{mark}", f"{found.low:.3f} to {found.high:.3f}"


def _describe_choice(result: ProbeResult, task: str) -> str:
    """Say what is best on the validation rows, and how it compares with the last layer on the test rows."""
    chosen, gain = result.chosen[task], result.against_last[task]
    said = f"* best on the validation rows: {chosen}"
    if gain is None:
        return said
    value, interval, *_ = describe_difference(gain)
    return f"{said}; on the test rows {value} ({interval}) against {chosen.pooling} of {result.layers[-1]}"
