"""Figures of a run."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from topwork.engine.observer import Epoch

#: Curves in a panel, panels in a figure, and curves up to which a panel has a legend: more make no readable figure.
MAX_CURVES, MAX_PANELS, MAX_LEGEND = 200, 16, 20

#: Panels side by side.
COLUMNS = 4


def learning_curves(epochs: Sequence[Epoch], best_epoch: int) -> Figure:
    """Draw every metric over the epochs, a panel each: training dashed, validation solid.

    Of more than 200 curves in a panel and more than 16 panels the first are drawn, and it is said how many there are.
    """
    names = list(epochs[0].metrics)
    kinds = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    panels = kinds[:MAX_PANELS]
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    numbers = [epoch.number for epoch in epochs]
    subjects = {subject: number for number, subject in enumerate(dict.fromkeys(_subject(name) for name in names))}
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in places[len(panels) :]:
        empty.remove()
    for axes, panel in zip(places, panels, strict=False):
        curves = [name for name in names if name.rpartition("/")[2] == panel]
        for name in curves[:MAX_CURVES]:
            style = "--" if name.startswith("training") else "-"
            color = f"C{subjects[_subject(name)]}"  # a task has one colour, whatever the rows
            values = [epoch.metrics[name] for epoch in epochs]
            label = name.removesuffix(f"/{panel}")
            axes.plot(numbers, values, style, color=color, marker="o", markersize=3, label=label)
        axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle=":")
        some = f" (the first {MAX_CURVES} of {len(curves):,} curves)" if len(curves) > MAX_CURVES else ""
        axes.set(title=f"{panel.replace('_', ' ')}{some}", xlabel=f"epoch (best: {best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if len(curves) <= MAX_LEGEND:
            axes.legend(fontsize=8)
    if len(kinds) > len(panels):
        figure.suptitle(f"the first {len(panels)} of {len(kinds):,} metrics")
    return figure


def _subject(name: str) -> str:
    """The task of a metric's name, or "" for a total."""
    return name.partition("/")[2].rpartition("/")[0]
