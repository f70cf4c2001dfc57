"""``topwork transfer``."""

from collections import Counter

from topwork.cli.format import Format
from topwork.cli.show_training import describe_power, show_run
from topwork.cli.show_trainings import show_trainings
from topwork.cli.tables import console, describe_difference, heading, table
from topwork.experiment.schema import Experiment
from topwork.lab.study.transfer import transfer
from topwork.lab.study.transfer_result import TransferResult, verdict


def show_transfer(experiment: Experiment, workers: int | None, format: Format) -> None:
    """Train with a progress bar, then print what helps what, what hurts, and what cannot be told."""
    show_trainings(lambda bar: transfer(experiment, workers=workers, observer=bar), format, show_matrix, table="matrix")


def show_matrix(result: TransferResult) -> None:
    """Print the matrix, and the gains that can be told from 0 with their intervals."""
    for warning in result.warnings:
        console.print(f"note: {warning}", soft_wrap=True)
    seeds = len(result.seeds)
    heading(
        f"gain over being trained alone, on test rows, means over {seeds} seeds"
        if seeds > 1
        else "gain over being trained alone, on test rows, of one seed"
    )
    shown = table("task", "metric", "#alone", *(f"#{partner}" for partner in result.partners))
    for task, alone in result.alone.items():
        cells = []
        for partner in result.partners:
            gain = result.gains.get((task, partner))
            mark = "*" if gain and verdict(gain) in ("helps", "hurts") else " "
            cells.append(f"{gain.value:+.3f}{mark}" if gain else "")
        shown.add_row(task, result.metrics[task], f"{alone.value:.3f}", *cells)
    console.print(shown)
    console.print()
    told = {pair: gain for pair, gain in result.gains.items() if verdict(gain) in ("helps", "hurts")}
    if told:
        heading("* what can be told from 0")
        found = table("task", "with", "", "#gain", "#95 % interval")
        for (task, partner), gain in told.items():
            found.add_row(task, partner, verdict(gain), *describe_difference(gain)[:2])
        console.print(found)
    counted = Counter(map(verdict, result.gains.values()))
    intervals = len(result.gains) - counted["no interval"]
    without = f", {counted['no interval']} have no interval" if counted["no interval"] else ""
    console.print(
        f"{counted['helps']} help, {counted['hurts']} hurt, {counted['cannot be told']} cannot be told{without}; of "
        f"{intervals} intervals about {0.05 * intervals:.1f} exclude 0 by chance alone",
        soft_wrap=True,
    )
    console.print(describe_power(seeds), soft_wrap=True)
    console.print(
        f"{result.trainings} trainings of {result.training_seconds:,.0f} s together, in {result.seconds:,.0f} s, "
        f"{result.encoding_seconds:,.0f} s of them to encode\ntable: {result.folder / 'transfer.csv'}",
        soft_wrap=True,
    )
    show_run(result.name, result.tracking_uri)
