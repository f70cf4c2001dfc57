"""``topwork compare``."""

import math
from collections.abc import Sequence

from topwork.cli.format import Format
from topwork.cli.output import Row, write_csv, write_json
from topwork.cli.show_training import describe_power
from topwork.cli.tables import console, describe_difference, describe_value, heading, table
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.comparison import Comparison, compare


def show_comparison(runs: Sequence[str], uri: str | None, format: Format, *, trust_plugins: bool) -> None:
    """Print the settings that differ, every metric of every run, and each difference from the first."""
    compared = compare(runs, uri=uri, trust_plugins=trust_plugins)
    if format is Format.CSV:
        write_csv(rows_of_comparison(compared))
        return
    if format is Format.JSON:
        settings_by_run = {
            name: dict(zip(compared.names, values, strict=True)) for name, values in compared.settings.items()
        }
        write_json({"split": compared.split, "settings": settings_by_run, "metrics": rows_of_comparison(compared)})
        return
    heading("settings that differ")
    settings = table("parameter", *compared.names)
    for name, values in compared.settings.items():
        settings.add_row(name, *("-" if value is None else value for value in values))
    console.print(settings if compared.settings else "nothing")
    console.print()
    first = next(iter(compared.estimates.values()))[0]
    heading(f"metrics on the same {first.rows:,} {compared.split} rows{describe_seeds(first.seeds)}")
    figures = table("metric", *(f"#{name}" for name in compared.names))
    for name, estimates in compared.estimates.items():
        figures.add_row(name, *map(describe_estimate, estimates))
    console.print(figures)
    console.print()
    heading(f"difference from {compared.names[0]}")
    differences = table("metric", "run", "#difference", "#95 % interval", "#McNemar p")
    for name, by_run in compared.differences.items():
        for run, difference in zip(compared.names[1:], by_run, strict=True):
            differences.add_row(name, run, *describe_difference(difference))
    console.print(differences)
    if first.seeds > 1:
        console.print(describe_power(first.seeds), soft_wrap=True)


def rows_of_comparison(compared: Comparison) -> list[Row]:
    """One row for each metric of each run; the first run has no difference."""
    rows: list[Row] = []
    for metric, estimates in compared.estimates.items():
        differences = [None, *compared.differences[metric]]
        for run, one, difference in zip(compared.names, estimates, differences, strict=True):
            row: dict[str, object] = {
                "metric": metric,
                "run": run,
                "value": one.value,
                "low": one.low,
                "high": one.high,
            }
            row |= {"rows": one.rows, "seeds": one.seeds, "sd": one.sd}
            names = {"difference": "value", "difference_low": "low", "difference_high": "high", "mcnemar_p": "p_value"}
            rows.append(row | {name: getattr(difference, field, None) for name, field in names.items()})
    return rows


def describe_seeds(seeds: int) -> str:
    """Say how many seeds stand behind each figure; nothing where it is one."""
    return f", each figure the mean over {seeds} seeds" if seeds > 1 else ""


def describe_estimate(estimate: Estimate) -> str:
    """Write a value with its interval, and its standard deviation over seeds."""
    interval = "" if math.isnan(estimate.low) else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{describe_value(estimate.value)}{interval}{'' if estimate.sd is None else f', sd {estimate.sd:.3f}'}"
