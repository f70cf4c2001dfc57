"""Tables and numbers as all commands print them."""

import math
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def show_estimates(estimates: Mapping[str, Estimate], title: str) -> None:
    """Print metrics with their intervals."""
    heading(title)
    shown = table("task", "metric", "#value", "#95 % interval", "#rows")
    for name, figure in estimates.items():
        task, _, metric = name.rpartition("/")
        interval = "unknown" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
        value = "undefined" if math.isnan(figure.value) else f"{figure.value:.3f}"
        shown.add_row(task, metric, value, interval, f"{figure.rows:,}")
    console.print(shown)


def format_bytes(size: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
