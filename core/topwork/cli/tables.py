"""Tables and numbers as all commands print them."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from topwork.engine.evaluation.comparison import Difference
    from topwork.engine.evaluation.estimates import Estimate

console = Console(highlight=False, markup=False, emoji=False)  # what is printed is often a user's text
if not console.is_terminal:
    console.width = 10_000  # nobody wraps what goes into a file or a pipe


def table(*columns: str) -> Table:
    """Make an empty table; a column whose name starts with ``#`` holds numbers."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(
            column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold"
        )
    return made


def heading(text: str) -> None:
    """Print what follows' title."""
    console.print(Text(text, style="bold"), soft_wrap=True)


def show_estimates(
    estimates: Mapping[str, "Estimate"],
    title: str,
    *,
    against_alone: "Mapping[str, Difference] | None" = None,
) -> None:
    """Print metrics with their intervals.

    Args:
        against_alone: how much more each is than where its task was trained alone.
    """
    heading(title)
    gains = ["#alone", "#against alone", "#95 % interval"] if against_alone else []
    spread = ["#sd"] if any(figure.seeds > 1 for figure in estimates.values()) else []
    shown = table("task", "metric", "#value", *spread, "#95 % interval", *gains, "#rows")
    for name, figure in estimates.items():
        task, _, metric = name.rpartition("/")
        interval = "unknown" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
        value = describe_value(figure.value)
        of_seeds = ["" if figure.sd is None else f"{figure.sd:.3f}"] if spread else []
        gain = against_alone[name] if against_alone else None
        gained = [describe_value(figure.value - gain.value), *describe_difference(gain)[:2]] if gain else []
        shown.add_row(task, metric, value, *of_seeds, interval, *gained, f"{figure.rows:,}")
    console.print(shown)


def describe_value(value: float) -> str:
    """Write a metric."""
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def describe_difference(difference: "Difference") -> tuple[str, str, str]:
    """Write a difference, its interval, and the p of McNemar's test; nothing for what is not known."""
    value = "" if math.isnan(difference.value) else f"{difference.value:+.3f}"
    interval = "" if math.isnan(difference.low) else f"{difference.low:+.3f} to {difference.high:+.3f}"
    return value, interval, "" if difference.p_value is None else f"{difference.p_value:.3f}"


def format_bytes(size: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
